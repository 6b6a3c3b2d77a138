package bench;

import static java.nio.charset.StandardCharsets.UTF_8;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.kstream.Windowed;
import org.apache.kafka.streams.state.WindowStore;

/**
 * Count and sum per key in tumbling windows of ten seconds, exactly_once_v2.
 *
 * <p>Arguments: broker, input, output, application id, commit interval in ms, state directory. Runs
 * until it is ended. The settings are those that made it fastest: large polls, a 64 MB cache (which
 * is what lets it send one result per changed window and commit) and values read by a streaming
 * parser.
 */
public final class WindowedTotals {
  private static final JsonFactory JSON = new JsonFactory();
  private static final long CACHE_BYTES = 64L << 20;

  private record Total(long count, double sum) {
    Total plus(double value) {
      return new Total(count + 1, sum + value);
    }
  }

  private static final Serde<Total> TOTALS =
      Serdes.serdeFrom(
          (topic, total) ->
              total == null
                  ? null
                  : ByteBuffer.allocate(16).putLong(total.count).putDouble(total.sum).array(),
          (topic, row) -> {
            if (row == null) {
              return null;
            }
            ByteBuffer buffer = ByteBuffer.wrap(row);
            return new Total(buffer.getLong(), buffer.getDouble());
          });

  private static double valueOf(byte[] event) {
    try (JsonParser parser = JSON.createParser(event)) {
      while (parser.nextToken() != null) {
        if (parser.currentToken() == JsonToken.FIELD_NAME && parser.currentName().equals("v")) {
          parser.nextToken();
          return parser.getDoubleValue();
        }
      }
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
    throw new IllegalArgumentException("an event without v");
  }

  private static KeyValue<byte[], byte[]> result(Windowed<byte[]> key, Total total) {
    String name = new String(key.key(), UTF_8) + "@" + key.window().start();
    String text = "{\"n\":" + total.count + ",\"sum\":" + total.sum + "}";
    return KeyValue.pair(name.getBytes(UTF_8), text.getBytes(UTF_8));
  }

  private static Properties settings(String[] arguments) {
    Properties settings = new Properties();
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[3]);
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, arguments[4]);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[5]);
    settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, CACHE_BYTES);
    settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    settings.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 20_000);
    settings.put(
        StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    return settings;
  }

  public static void main(String[] arguments) {
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(arguments[1], Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
        .mapValues(event -> valueOf(event))
        .groupByKey(Grouped.with(Serdes.ByteArray(), Serdes.Double()))
        .windowedBy(TimeWindows.ofSizeAndGrace(Duration.ofSeconds(10), Duration.ofSeconds(60)))
        .aggregate(
            () -> new Total(0, 0.0),
            (key, value, total) -> total.plus(value),
            Materialized.<byte[], Total, WindowStore<Bytes, byte[]>>as("totals")
                .withKeySerde(Serdes.ByteArray())
                .withValueSerde(TOTALS))
        .toStream()
        .map(WindowedTotals::result)
        .to(arguments[2], Produced.with(Serdes.ByteArray(), Serdes.ByteArray()));
    KafkaStreams streams = new KafkaStreams(builder.build(), settings(arguments));
    Runtime.getRuntime()
        .addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
    streams.start();
  }
}
