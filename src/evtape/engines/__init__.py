"""What engines ask of streams. Not public; ``evtape.scan`` and ``evtape.integrations`` rest on it."""
