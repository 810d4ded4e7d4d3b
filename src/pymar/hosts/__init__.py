"""Your hosts by one command: what is started there and here, and how it is found and ended.

broker       a RabbitMQ of one's own on this host
certificate  its TLS certificate
"""
