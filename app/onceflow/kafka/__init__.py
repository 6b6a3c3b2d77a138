"""Everything that speaks to Kafka; the only room that imports confluent_kafka.

Modules: ``poll`` (the consumer on its own thread), ``producer`` (transactions and their ends),
``plain`` (sends at least once), ``threads`` (blocking calls off the event loop), ``admin``,
``offsets`` (markers), ``changelog`` (restore and tail), ``configuration``, ``errors`` (the one
place that judges a KafkaError), ``records`` and ``columns`` (runs), ``flight`` (back-pressure),
``partitioner``, ``statistics``. Nothing above this room sees a KafkaException.
"""
