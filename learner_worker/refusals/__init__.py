"""Tells what Kafka refuses, which stays so until somebody changes something, from an outage, which passes.

`denials` reads the errors of a connection that works; `diagnosis` asks why there is none.
"""
