"""What a producer sends, as events: read, validated and given ids. The HTTP API and the sources use it alike."""
