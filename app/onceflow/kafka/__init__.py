"""Everything that speaks to Kafka; the only room that imports confluent_kafka.

Modules: ``poll`` (the consumer on its own thread), ``flight`` (back-pressure), ``records`` and
``columns`` (runs), ``producer`` (transactions and their ends), ``plain`` (sends at least once),
``threads`` (blocking calls off the event loop), ``admin`` and ``queries`` (topics and the log),
``offsets`` (markers), ``changelog`` (restore and tail), ``configuration``, ``errors`` (the one
place that judges a KafkaError), ``connection`` (why nobody answers), ``partitioner``,
``statistics``. Nothing above this room sees a KafkaException.
"""
