"""What runs inside a sandbox: a single-threaded IPython kernel that can be forked.

`main.py` is executed by path, with the interpreter of the environment, in a folder where these files lie beside
framing.py, linux.py, filter.py (from the native backend) and the value codec of the SDK.
"""
