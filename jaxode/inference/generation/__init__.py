"""What continues texts: the cache over depth, decoding, sampling, drafts, streams."""
