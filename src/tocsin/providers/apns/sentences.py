"""What Apple's answers mean to whoever asks why a push did not arrive: cause and remedy, a sentence each.

Source: Apple, "Handling notification responses from APNs".
"""

from __future__ import annotations

from typing import Final

from tocsin.domain.explanations import Code, Explanation

_NONE: Final = "Nothing on this side: the app registers its new token when it is installed and opened again."
_TOPIC: Final = "Register the device with the application id of the app that it belongs to, and its topic."
_KEY: Final = "Replace the credential with `tocsin app add`, and ask Apple with `tocsin app check`."
_SLOWER: Final = "None is needed: tocsin slows down and tries again by itself."
_WAIT: Final = "None is needed: tocsin tries again by itself; see Apple's system status page."
_BUG: Final = "Report it: tocsin should not have sent this. The event can be replayed with `tocsin deadletter replay`."

_SENTENCES: Final[dict[str, Explanation]] = {
    "Unregistered": Explanation(
        Code.APP_UNINSTALLED,
        "Apple says that the device token is no longer active (410 Unregistered): the app was uninstalled.",
        _NONE,
    ),
    "ExpiredToken": Explanation(
        Code.APP_UNINSTALLED,
        "Apple says that the device token has expired (410 ExpiredToken): the app was reinstalled, or long not used.",
        _NONE,
    ),
    "BadDeviceToken": Explanation(
        Code.WRONG_ENVIRONMENT,
        "Apple knows the device token in neither environment (400 BadDeviceToken): it is of the other environment, of"
        " another app, or garbled.",
        'Have the app register the token as iOS gives it, with "sandbox": true for builds signed for development.',
    ),
    "DeviceTokenNotForTopic": Explanation(
        Code.WRONG_TOPIC,
        "Apple says that the device token is not for the topic (400 DeviceTokenNotForTopic): it is another app's.",
        _TOPIC,
    ),
    "TopicDisallowed": Explanation(
        Code.WRONG_TOPIC,
        "Apple does not allow the topic (400 TopicDisallowed): the credential is not for this bundle id or its suffix.",
        "Enable push notifications for the bundle id, or use a certificate that names the topic.",
    ),
    "BadTopic": Explanation(
        Code.WRONG_TOPIC,
        "Apple does not know the topic (400 BadTopic): the bundle id in the application id is wrong.",
        "Add the application with its right bundle id, and have the app register with that.",
    ),
    "MissingTopic": Explanation(
        Code.WRONG_TOPIC, "Apple got no topic (400 MissingTopic): the certificate is for several topics.", _TOPIC
    ),
    "ExpiredProviderToken": Explanation(
        Code.BAD_CREDENTIAL,
        "Apple calls the provider token expired (403 ExpiredProviderToken): this machine's clock is wrong.",
        "Set the clock by NTP; tocsin then goes on by itself.",
    ),
    "InvalidProviderToken": Explanation(
        Code.BAD_CREDENTIAL,
        "Apple does not accept the key (403 InvalidProviderToken): key, key id and team do not belong together, or the"
        " key was revoked.",
        _KEY,
    ),
    "MissingProviderToken": Explanation(
        Code.BAD_CREDENTIAL, "Apple got no credential (403 MissingProviderToken): the application has none.", _KEY
    ),
    "BadCertificate": Explanation(
        Code.BAD_CREDENTIAL,
        "Apple does not accept the certificate (403 BadCertificate): it ended or was revoked.",
        _KEY,
    ),
    "BadCertificateEnvironment": Explanation(
        Code.BAD_CREDENTIAL,
        "The certificate is for the other environment (403 BadCertificateEnvironment).",
        "Add a certificate that is for both environments, or a key, with `tocsin app add`.",
    ),
    "UnrelatedKeyIdInToken": Explanation(
        Code.BAD_CREDENTIAL,
        "Apple wants the key by which the connection was begun (403 UnrelatedKeyIdInToken).",
        _KEY,
    ),
    "BadEnvironmentKeyInToken": Explanation(
        Code.BAD_CREDENTIAL,
        "The key is for the other environment alone (403 BadEnvironmentKeyInToken).",
        "Create a key for both environments in the developer account, and add it with `tocsin app add`.",
    ),
    "BadEnvironmentKeyIdInToken": Explanation(
        Code.BAD_CREDENTIAL,
        "The key is for the other environment alone (403 BadEnvironmentKeyIdInToken).",
        "Create a key for both environments in the developer account, and add it with `tocsin app add`.",
    ),
    "Forbidden": Explanation(
        Code.BAD_CREDENTIAL, "Apple forbids the action with this credential (403 Forbidden).", _KEY
    ),
    "TooManyRequests": Explanation(
        Code.THROTTLED, "Apple got too many pushes for this one device (429 TooManyRequests).", _SLOWER
    ),
    "TooManyProviderTokenUpdates": Explanation(
        Code.THROTTLED,
        "The provider token of the key was renewed too often (429 TooManyProviderTokenUpdates).",
        "Let one instance alone use the key; tocsin goes on by itself after at most 20 minutes.",
    ),
    "InternalServerError": Explanation(Code.PROVIDER_DOWN, "Apple fails (500 InternalServerError).", _WAIT),
    "ServiceUnavailable": Explanation(Code.PROVIDER_DOWN, "Apple is unavailable (503 ServiceUnavailable).", _WAIT),
    "Shutdown": Explanation(Code.PROVIDER_DOWN, "Apple's server is shutting down (503 Shutdown).", _WAIT),
    "IdleTimeout": Explanation(Code.PROVIDER_DOWN, "Apple closed the idle connection (400 IdleTimeout).", _WAIT),
    "PayloadTooLarge": Explanation(
        Code.REFUSED, "Apple refuses the payload: it is too large (413 PayloadTooLarge).", _BUG
    ),
}
_DELIVERED: Final = Explanation(
    Code.DELIVERED, "Apple accepted the push; whether the phone has shown it, Apple does not say."
)


def said(status: int, reason: str) -> Explanation | None:
    """What Apple means by this answer; None where it has no sentence."""
    if status == 200:
        return _DELIVERED
    if known := _SENTENCES.get(reason):
        return known
    if status in (400, 404, 405, 413):
        return Explanation(Code.REFUSED, f"Apple refuses the push ({status} {reason}).", _BUG)
    return None
