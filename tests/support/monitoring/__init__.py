"""The dashboard and the alert rules of deploy/, generated from the worker's own instruments."""
