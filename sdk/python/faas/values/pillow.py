"""Pillow: an image as its pixels. An image that came from a file arrives as one in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .errors import ValueDecodeError
from .nodes import TAG, Node, Tagged, field, integers, kind_of, optional
from .packages import load

if TYPE_CHECKING:
    from .decoder import Decoder
    from .encoder import Encoder

__all__ = ["DECODERS", "encoder_for"]

_BITS_PER_PIXEL = {
    "1": 1,
    **dict.fromkeys(("L", "P"), 8),
    **dict.fromkeys(("LA", "La", "PA", "I;16", "I;16L", "I;16B"), 16),
    **dict.fromkeys(("RGB", "YCbCr", "LAB", "HSV"), 24),
    **dict.fromkeys(("RGBA", "RGBa", "RGBX", "CMYK", "I", "F"), 32),
}
_LONGEST_EMPTY_SIDE = 1 << 16
# What a file's reader leaves in `info` may be of any type.
_PLAIN_INFO = (type(None), bool, int, float, str, bytes)


def encoder_for(kind: type) -> Callable[[Encoder, Any], Node] | None:
    """The function that encodes images in memory and images that Pillow opened."""
    image = load("PIL.Image").Image
    opened = kind.__module__.startswith("PIL.") and issubclass(kind, image)
    return _encode if kind is image or opened else None


def _row_bytes(mode: str, width: int) -> int:
    return (width * _BITS_PER_PIXEL[mode] + 7) // 8


def _encode(encoder: Encoder, value: Any) -> Node:
    try:
        value.load()
    except (OSError, ValueError) as error:
        raise encoder.error(f"the image can't be read from its file ({error!s:.100}): open it again") from error
    if value.mode not in _BITS_PER_PIXEL:
        raise encoder.error(f"an image of mode {value.mode} can't be sent: send .convert('RGB') of it")
    if 0 in value.size and max(value.size) > _LONGEST_EMPTY_SIDE:
        raise encoder.error("an image without pixels can't be sent")
    info = value.info
    if type(value) is not load("PIL.Image").Image:
        info = {key: item for key, item in info.items() if type(key) is str and _is_plain(item)}
    node: dict[str, Node] = {TAG: "pil.image", "mode": value.mode, "size": list(value.size)}
    node["b"] = encoder.buffer(value.tobytes() if 0 not in value.size else b"")
    if value.mode in ("P", "PA"):
        palette = "RGBA" if "A" in value.palette.mode else "RGB"
        node |= {"palette": palette, "colors": encoder.buffer(bytes(value.getpalette(palette)))}
    return {**node, "info": encoder.child(".info", info)}


def _is_plain(item: Any) -> bool:
    parts: Iterable[object] = item if kind_of(item) is tuple else (item,)
    return all(type(part) in _PLAIN_INFO for part in parts)


def _decode(decoder: Decoder, node: Tagged) -> Any:
    image_module = load("PIL.Image")
    mode, size = field(node, "mode", str), tuple(integers(node, "size", minimum=0))
    if mode not in _BITS_PER_PIXEL or len(size) != 2 or (0 in size and max(size) > _LONGEST_EMPTY_SIDE):
        raise ValueDecodeError("an image has an unknown mode or a wrong size")
    pixels = decoder.buffer(node)
    if _row_bytes(mode, size[0]) * size[1] != len(pixels):
        raise ValueDecodeError(f"an image of size {size} has {len(pixels)} bytes")
    image = image_module.new(mode, size)
    if len(pixels):
        image.frombytes(bytes(pixels))
    palette = optional(node, "palette", str)
    if palette is not None:
        if palette not in ("RGB", "RGBA") or mode not in ("P", "PA"):
            raise ValueDecodeError("an image has an unknown palette")
        image.putpalette(bytes(decoder.buffer(node, "colors")), palette)
    info = decoder.decode(node.get("info"))
    if type(info) is not dict:
        raise ValueDecodeError("an image has no info")
    image.info = info
    return image


DECODERS: dict[str, Callable[[Decoder, Tagged], Any]] = {"pil.image": _decode}
