"""The key set of an issuer, and a token that it has signed. The private key was thrown away: nobody signs another."""

from __future__ import annotations

from typing import Final

KEY_SET: Final = (
    b'{"keys":[{"kty":"EC","crv":"P-256","x":"7jqKEt6sCRFpB9anE6idrAV_9XT7EuSJ2ghhY5EPy5c","y":"xM6Rt9WQ-O'
    b'9BOZYhK_SNagnGyWIhes484sZ5TZD5e40","kid":"fuzz","use":"sig"}]}'
)
SIGNED: Final = (
    "eyJhbGciOiJFUzI1NiIsImtpZCI6ImZ1enoiLCJ0eXAiOiJKV1QifQ.eyJpc3MiOiJodHRwczovL3Nzby5leGFtcGxlLmNvbSIsI"
    "mF1ZCI6InRvY3NpbiIsInN1YiI6IjlhZWQ1ZTk0LTM4MDMtMTFlMy04NDc1LTAwMjRlOGY5MGNjMCIsImV4cCI6NDAwMDAwMDAwM"
    "CwiaWF0IjoxNzAwMDAwMDAwfQ"
)
"""The header and the claims of the token; its signature is in the corpus."""
