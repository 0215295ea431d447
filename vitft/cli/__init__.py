"""One file a verb: parse, one call, print. The only place that prints."""
