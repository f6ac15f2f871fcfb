"""Who sandboxes are on the host when the gateway is run by root. Standard library only.

An id that no distribution and no systemd hands out (60578 to 61183 are unused, https://systemd.io/UIDS-GIDS/), and
one that a container's usual 65536 ids hold.
"""

HOST_UID = 61_000
