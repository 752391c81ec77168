"""`tocsin doctor`: looks at everything that tocsin needs, and says what is wrong and what to do about it."""
