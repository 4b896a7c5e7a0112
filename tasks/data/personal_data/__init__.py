"""Personal data: found, replaced by pseudonyms, and looked for again in what was written."""
