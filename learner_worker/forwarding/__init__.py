"""`learner-worker forward-requests`: requests on topics that single agents write go to the shared one.

Such a topic proves by Kafka's rights alone who asks. The forwarder turns this into the proof that workers
check, a token, so that they need to know nothing of these topics.
"""
