"""Real servers for tests: private, on free ports, stopped afterwards. One file a server."""
