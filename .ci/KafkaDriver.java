import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;
import java.time.Duration;
import java.nio.charset.StandardCharsets;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.serialization.*;

/** Makes topics and records for the checks of --kafka. The first argument is the bootstrap list, the second the command. */
public class KafkaDriver {
    static Properties base(String brokers) {
        Properties all = new Properties();
        all.put("bootstrap.servers", brokers);
        String file = System.getenv("CLIENT_PROPERTIES");
        if (file != null) {
            try (var in = new java.io.FileInputStream(file)) { all.load(in); }
            catch (java.io.IOException error) { throw new RuntimeException(error); }
        }
        return all;
    }

    static KafkaProducer<byte[], byte[]> producer(String brokers, String codec, String transaction) {
        Properties with = base(brokers);
        with.put("compression.type", codec);
        with.put("acks", "all");
        with.put("enable.idempotence", "true");
        with.put("linger.ms", "5");
        with.put("batch.size", "65536");
        with.put("delivery.timeout.ms", "180000");
        with.put("max.block.ms", "120000");
        if (transaction != null) with.put("transactional.id", transaction);
        return new KafkaProducer<>(with, new ByteArraySerializer(), new ByteArraySerializer());
    }

    static byte[] bytes(String text) { return text.getBytes(StandardCharsets.UTF_8); }

    public static void main(String[] args) throws Exception {
        String brokers = args[0];
        switch (args[1]) {
            case "create": { // TOPIC PARTITIONS REPLICAS [KEY=VALUE...]
                try (Admin admin = Admin.create(base(brokers))) {
                    Map<String, String> settings = new HashMap<>();
                    for (int k = 5; k < args.length; k++) settings.put(args[k].split("=", 2)[0], args[k].split("=", 2)[1]);
                    NewTopic topic = new NewTopic(args[2], Integer.parseInt(args[3]), Short.parseShort(args[4])).configs(settings);
                    admin.createTopics(List.of(topic)).all().get(60, TimeUnit.SECONDS);
                }
                break;
            }
            case "delete":
                try (Admin admin = Admin.create(base(brokers))) {
                    admin.deleteTopics(List.of(args[2])).all().get(60, TimeUnit.SECONDS);
                }
                break;
            case "partitions": // TOPIC COUNT
                try (Admin admin = Admin.create(base(brokers))) {
                    admin.createPartitions(Map.of(args[2], NewPartitions.increaseTo(Integer.parseInt(args[3])))).all().get(60, TimeUnit.SECONDS);
                }
                break;
            case "truncate": // TOPIC PARTITION BEFORE
                try (Admin admin = Admin.create(base(brokers))) {
                    var at = new TopicPartition(args[2], Integer.parseInt(args[3]));
                    admin.deleteRecords(Map.of(at, RecordsToDelete.beforeOffset(Long.parseLong(args[4])))).all().get(60, TimeUnit.SECONDS);
                }
                break;
            case "leader": // TOPIC PARTITION: another replica becomes the leader
                try (Admin admin = Admin.create(base(brokers))) {
                    int partition = Integer.parseInt(args[3]);
                    var at = new TopicPartition(args[2], partition);
                    var info = admin.describeTopics(List.of(args[2])).allTopicNames().get(60, TimeUnit.SECONDS).get(args[2]).partitions().get(partition);
                    List<Integer> replicas = new ArrayList<>();
                    for (Node node : info.replicas()) replicas.add(node.id());
                    Collections.rotate(replicas, 1);
                    admin.alterPartitionReassignments(Map.of(at, Optional.of(new NewPartitionReassignment(replicas)))).all().get(60, TimeUnit.SECONDS);
                    for (int left = 60; left > 0; left--) {
                        try { admin.electLeaders(ElectionType.PREFERRED, Set.of(at)).partitions().get(60, TimeUnit.SECONDS); break; }
                        catch (ExecutionException error) { Thread.sleep(500); }
                    }
                }
                break;
            case "leader-at": // TOPIC PARTITION NODE: the only replica
                try (Admin admin = Admin.create(base(brokers))) {
                    var at = new TopicPartition(args[2], Integer.parseInt(args[3]));
                    int node = Integer.parseInt(args[4]);
                    admin.alterPartitionReassignments(Map.of(at, Optional.of(new NewPartitionReassignment(List.of(node))))).all().get(60, TimeUnit.SECONDS);
                    for (int left = 120; left > 0; left--) {
                        var info = admin.describeTopics(List.of(args[2])).allTopicNames().get(60, TimeUnit.SECONDS).get(args[2]).partitions().get(at.partition());
                        if (info.leader() != null && info.leader().id() == node && info.replicas().size() == 1) break;
                        Thread.sleep(250);
                    }
                }
                break;
            case "produce": { // TOPIC CODEC PARTITIONS FIRST COUNT [PER-SECOND]: numbered lines
                int partitions = Integer.parseInt(args[4]);
                long first = Long.parseLong(args[5]), count = Long.parseLong(args[6]);
                double rate = args.length > 7 ? Double.parseDouble(args[7]) : 0;
                long began = System.nanoTime();
                AtomicReference<Exception> failed = new AtomicReference<>();
                try (var producer = producer(brokers, args[3], null)) {
                    for (long k = first; k < first + count; k++) {
                        var record = new ProducerRecord<byte[], byte[]>(args[2], (int) (k % partitions), null, bytes("n" + k + " line"));
                        producer.send(record, (to, error) -> { if (error != null) failed.compareAndSet(null, error); });
                        if (rate > 0) {
                            long due = began + (long) ((k - first + 1) / rate * 1e9), now = System.nanoTime();
                            if (due > now) Thread.sleep((due - now) / 1_000_000, (int) ((due - now) % 1_000_000));
                        }
                    }
                }
                if (failed.get() != null) throw failed.get();
                break;
            }
            case "file": { // TOPIC CODEC PARTITIONS FILE: each line a record
                int partitions = Integer.parseInt(args[4]);
                long k = 0;
                AtomicReference<Exception> failed = new AtomicReference<>();
                try (var producer = producer(brokers, args[3], null); var lines = new java.io.BufferedReader(new java.io.InputStreamReader(new java.io.FileInputStream(args[5]), StandardCharsets.ISO_8859_1))) {
                    for (String line; (line = lines.readLine()) != null; k++) {
                        var record = new ProducerRecord<byte[], byte[]>(args[2], (int) (k / 64 % partitions), null, line.getBytes(StandardCharsets.ISO_8859_1));
                        producer.send(record, (to, error) -> { if (error != null) failed.compareAndSet(null, error); });
                    }
                }
                if (failed.get() != null) throw failed.get();
                break;
            }
            case "transactions": { // TOPIC CODEC PARTITIONS FIRST COUNT: in turns of 100 committed and 100 aborted records
                int partitions = Integer.parseInt(args[4]);
                long first = Long.parseLong(args[5]), count = Long.parseLong(args[6]);
                try (var producer = producer(brokers, args[3], "t" + System.nanoTime()); var other = producer(brokers, args[3], "u" + System.nanoTime())) {
                    producer.initTransactions();
                    other.initTransactions();
                    for (long k = first; k < first + count; k += 100) {
                        // Both are open at the same time, so that committed and aborted records lie among each other.
                        producer.beginTransaction();
                        other.beginTransaction();
                        for (long i = k; i < Math.min(k + 100, first + count); i++) {
                            producer.send(new ProducerRecord<>(args[2], (int) (i % partitions), null, bytes("n" + i + " line")));
                            other.send(new ProducerRecord<>(args[2], (int) (i % partitions), null, bytes("aborted" + i + " line")));
                        }
                        producer.flush();
                        other.flush();
                        if (k / 100 % 2 == 0) { other.abortTransaction(); producer.commitTransaction(); }
                        else { producer.commitTransaction(); other.abortTransaction(); }
                    }
                }
                break;
            }
            case "values": { // TOPIC PARTITION: odd values, as escaped arguments; "null" is a tombstone
                try (var producer = producer(brokers, "none", null)) {
                    for (int k = 4; k < args.length; k++) {
                        byte[] value = args[k].equals("null") ? null : bytes(args[k].translateEscapes());
                        producer.send(new ProducerRecord<>(args[2], Integer.parseInt(args[3]), bytes("key" + k % 3), value)).get();
                    }
                }
                break;
            }
            case "bigs": { // TOPIC CODEC PARTITIONS COUNT WORDS SECONDS: values of so many numbered words, spread over a time
                int partitions = Integer.parseInt(args[4]), count = Integer.parseInt(args[5]);
                Properties with = base(brokers);
                with.put("compression.type", args[3]);
                with.put("max.request.size", "67108864");
                with.put("delivery.timeout.ms", "180000");
                try (var producer = new KafkaProducer<>(with, new ByteArraySerializer(), new ByteArraySerializer())) {
                    for (int k = 0; k < count; k++) {
                        StringBuilder text = new StringBuilder();
                        for (int i = 0; i < Integer.parseInt(args[6]); i++) text.append('b').append(k).append('x').append(i).append(' ');
                        producer.send(new ProducerRecord<>(args[2], k % partitions, null, bytes(text.toString().trim()))).get();
                        Thread.sleep(Long.parseLong(args[7]) * 1000 / count);
                    }
                }
                break;
            }
            case "big": { // TOPIC CODEC PARTITION BYTES WORD: one value of many words
                Properties with = base(brokers);
                with.put("compression.type", args[3]);
                with.put("max.request.size", "134217728");
                with.put("buffer.memory", "268435456");
                try (var producer = new KafkaProducer<>(with, new ByteArraySerializer(), new ByteArraySerializer())) {
                    StringBuilder text = new StringBuilder();
                    while (text.length() < Integer.parseInt(args[5])) text.append(args[6]).append(text.length() % 977).append(' ');
                    producer.send(new ProducerRecord<>(args[2], Integer.parseInt(args[4]), bytes("big"), bytes(text.toString().trim()))).get();
                }
                break;
            }
            case "consume": { // TOPIC: reads all there is, as fast as it can
                Properties with = base(brokers);
                with.put("enable.auto.commit", "false");
                with.put("isolation.level", "read_committed");
                with.put("fetch.max.bytes", "8388608");
                try (var consumer = new KafkaConsumer<>(with, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
                    List<TopicPartition> all = new ArrayList<>();
                    for (var info : consumer.partitionsFor(args[2])) all.add(new TopicPartition(args[2], info.partition()));
                    consumer.assign(all);
                    consumer.seekToBeginning(all);
                    var ends = consumer.endOffsets(all);
                    long began = System.nanoTime(), bytes = 0, records = 0;
                    while (!all.stream().allMatch(at -> consumer.position(at) >= ends.get(at))) {
                        for (var record : consumer.poll(Duration.ofMillis(500))) {
                            records++;
                            if (record.value() != null) bytes += record.value().length + 1;
                        }
                    }
                    double seconds = (System.nanoTime() - began) / 1e9;
                    System.out.printf(Locale.ROOT, "%d records %d bytes %.3f s%n", records, bytes, seconds);
                }
                break;
            }
            default:
                throw new IllegalArgumentException(args[1]);
        }
    }
}
