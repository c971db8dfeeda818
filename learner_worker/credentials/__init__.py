"""How this program logs in at Kafka: certificates, passwords and tokens, read again when they change."""
