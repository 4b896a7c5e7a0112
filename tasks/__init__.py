"""The work that the flows arrange: one package a domain, and the few modules that they share."""
