"""The reasons for which APNs refuses a request: HTTP status, `reason`, and Apple's description.

Source: Apple, "Handling notification responses from APNs".
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """The reasons that a request can cause. A fault script can answer with others, too."""

    BAD_COLLAPSE_ID = 400, "BadCollapseId", "The collapse identifier exceeds the maximum allowed size."
    BAD_DEVICE_TOKEN = 400, "BadDeviceToken", "The device token is invalid, or does not match the environment."
    BAD_EXPIRATION_DATE = 400, "BadExpirationDate", "The apns-expiration value is invalid."
    BAD_MESSAGE_ID = 400, "BadMessageId", "The apns-id value is invalid."
    BAD_PRIORITY = 400, "BadPriority", "The apns-priority value is invalid."
    BAD_TOPIC = 400, "BadTopic", "The apns-topic value is invalid."
    DEVICE_TOKEN_NOT_FOR_TOPIC = 400, "DeviceTokenNotForTopic", "The device token doesn't match the specified topic."
    DUPLICATE_HEADERS = 400, "DuplicateHeaders", "One or more headers are repeated."
    INVALID_PUSH_TYPE = 400, "InvalidPushType", "The apns-push-type value is invalid."
    MISSING_DEVICE_TOKEN = 400, "MissingDeviceToken", "The device token isn't specified in the request :path."
    MISSING_TOPIC = 400, "MissingTopic", "The apns-topic header is missing, and required."
    PAYLOAD_EMPTY = 400, "PayloadEmpty", "The message payload is empty."
    TOPIC_DISALLOWED = 400, "TopicDisallowed", "Pushing to this topic is not allowed."
    BAD_CERTIFICATE = 403, "BadCertificate", "The certificate is invalid."
    BAD_CERTIFICATE_ENVIRONMENT = 403, "BadCertificateEnvironment", "The certificate is for the wrong environment."
    EXPIRED_PROVIDER_TOKEN = 403, "ExpiredProviderToken", "The provider token is stale."
    INVALID_PROVIDER_TOKEN = 403, "InvalidProviderToken", "The provider token isn't valid, or its signature isn't."
    MISSING_PROVIDER_TOKEN = 403, "MissingProviderToken", "No certificate was used, and no provider token specified."
    BAD_PATH = 404, "BadPath", "The request contained an invalid :path value."
    METHOD_NOT_ALLOWED = 405, "MethodNotAllowed", "The specified :method value isn't POST."
    PAYLOAD_TOO_LARGE = 413, "PayloadTooLarge", "The message payload is too large."
    TOO_MANY_PROVIDER_TOKEN_UPDATES = 429, "TooManyProviderTokenUpdates", "The provider token is updated too often."

    def __init__(self, status: int, text: str, description: str) -> None:
        self.status = status
        self.text = text
        self.description = description


class ApnsRefusal(Exception):  # noqa: N818 - the name says what APNs does, and is not an error of the emulator
    """Raised by a check when APNs refuses the request; the handler answers with `reason`."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.text)
        self.reason = reason
