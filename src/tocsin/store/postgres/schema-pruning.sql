-- What forgets old events (housekeeping.py) finds them without reading dead letters, which are kept for longer, and finds
-- whether a content's key is still needed.
CREATE INDEX kept_done ON kept (settled_ms) WHERE NOT dead AND settled_ms IS NOT NULL;
CREATE INDEX kept_content_key ON kept (content_key) WHERE content_key IS NOT NULL;
