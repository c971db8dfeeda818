"""`learner-worker insights`: what the learner knows, for people and programs, over HTTP.

A process of its own, read-only and without state: it reads two compacted topics from their first record and
follows them. Any number of them may run beside any number of workers.
"""
