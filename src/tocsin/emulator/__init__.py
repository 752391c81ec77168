"""An emulator of Apple's APNs and Google's FCM for tests: of tocsin, and of any other sender."""
