"""What Google's answers mean to whoever asks why a push did not arrive: cause and remedy, a sentence each.

Source: Google, "FCM error codes".
"""

from __future__ import annotations

from typing import Final

from tocsin.domain.explanations import Code, Explanation

_NONE: Final = "Nothing on this side: the app registers its new token when it is installed and opened again."
_ACCOUNT: Final = "Replace the service account with `tocsin fcm add`, and ask Google with `tocsin fcm check`."
_SLOWER: Final = "None is needed: tocsin slows down and tries again by itself; for more, ask Google for a larger quota."
_WAIT: Final = "None is needed: tocsin tries again by itself; see the Firebase status dashboard."

_SENTENCES: Final[dict[str, Explanation]] = {
    "UNREGISTERED": Explanation(
        Code.APP_UNINSTALLED,
        "Google says that the registration token is no longer valid (404 UNREGISTERED): the app was uninstalled.",
        _NONE,
    ),
    "INVALID_ARGUMENT": Explanation(
        Code.REFUSED,
        "Google refuses the message (400 INVALID_ARGUMENT): the token is no FCM token, or a field is not allowed.",
        "Have the app register the token as Firebase gives it; a field that Google names is in tocsin's log.",
    ),
    "SENDER_ID_MISMATCH": Explanation(
        Code.WRONG_PROJECT,
        "The token belongs to another Firebase project (403 SENDER_ID_MISMATCH).",
        "Add the service account of the app's own project with `tocsin fcm add`; the app then registers again.",
    ),
    "PERMISSION_DENIED": Explanation(
        Code.BAD_CREDENTIAL,
        "The service account may not send for the project (403 PERMISSION_DENIED).",
        "Give it the role Firebase Cloud Messaging API Admin and enable the FCM API; `tocsin fcm check` asks Google.",
    ),
    "UNAUTHENTICATED": Explanation(
        Code.BAD_CREDENTIAL,
        "Google does not accept the access token (401 UNAUTHENTICATED): the account's key was revoked, or this"
        " machine's clock is wrong.",
        _ACCOUNT,
    ),
    "THIRD_PARTY_AUTH_ERROR": Explanation(
        Code.BAD_CREDENTIAL,
        "The device is behind Apple or Web Push, whose credential the Firebase project lacks (401"
        " THIRD_PARTY_AUTH_ERROR).",
        "Add the APNs key or the Web Push key to the project in the Firebase console.",
    ),
    "QUOTA_EXCEEDED": Explanation(Code.THROTTLED, "Google limits the rate (429 QUOTA_EXCEEDED).", _SLOWER),
    "RESOURCE_EXHAUSTED": Explanation(Code.THROTTLED, "Google limits the rate (429 RESOURCE_EXHAUSTED).", _SLOWER),
    "INTERNAL": Explanation(Code.PROVIDER_DOWN, "Google fails (500 INTERNAL).", _WAIT),
    "UNAVAILABLE": Explanation(Code.PROVIDER_DOWN, "Google is unavailable (503 UNAVAILABLE).", _WAIT),
}
_DELIVERED: Final = Explanation(
    Code.DELIVERED, "Google accepted the push; whether the phone has shown it, Google does not say."
)


def said(status: int, reason: str) -> Explanation | None:
    """What Google means by this answer; None where it has no sentence."""
    if status == 200:
        return _DELIVERED
    if known := _SENTENCES.get(reason):
        return known
    if status == 404:
        return Explanation(
            Code.BAD_CREDENTIAL, "Google knows no such project (404), or its FCM API is disabled.", _ACCOUNT
        )
    if status == 400:
        return Explanation(Code.REFUSED, f"Google refuses the message ({status} {reason}).".replace(" )", ")"))
    return None
