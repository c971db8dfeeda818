"""Clients of other frameworks, each with its own lock, asking a real worker on real Apache Kafka."""
