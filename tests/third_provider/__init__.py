"""A third provider, as somebody would add it: a package beside `apns` and `fcm`, and nothing else.

It posts JSON over HTTP/2 to an address that each device has registered, encrypted for that device alone, much as Web
Push does.
"""
