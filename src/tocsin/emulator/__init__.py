"""Apple's APNs and Google's FCM on 127.0.0.1, as strict as they are: for tocsin's tests, and for anybody's sender."""
