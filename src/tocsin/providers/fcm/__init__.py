"""Google's push service (Firebase Cloud Messaging, FCM)."""
