import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.CorrelationKey;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;
import org.springframework.kafka.support.KafkaHeaders;
import org.springframework.kafka.support.TopicPartitionOffset;
import org.springframework.kafka.support.serializer.ErrorHandlingDeserializer;
import org.springframework.messaging.Message;
import org.springframework.messaging.support.MessageBuilder;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;

/** Asks the learner through ReplyingKafkaTemplate, in each of its ways, and prints what it was told as JSON lines. */
public final class Ask {
    private static final JsonMapper JSON = new JsonMapper();
    private static final Duration PATIENCE = Duration.ofSeconds(15);
    private static final Duration SILENCE = Duration.ofSeconds(4);
    private static final int OWN_PARTITION = 2;

    private final JsonNode plan;
    private final String requests;
    private final DefaultKafkaProducerFactory<String, String> producers;

    private Ask(JsonNode plan) {
        this.plan = plan;
        this.requests = plan.get("requests").asString();
        this.producers = new DefaultKafkaProducerFactory<>(
                Map.of(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, plan.get("bootstrap_servers").asString()),
                new StringSerializer(), new StringSerializer());
    }

    public static void main(String[] arguments) throws Exception {
        Ask ask = new Ask(JSON.readTree(Path.of(arguments[0]).toFile()));
        print(Map.of("version", KafkaTemplate.class.getPackage().getImplementationVersion()));
        try {
            ask.inAGroup();
            ask.onAPartitionOfItsOwn();
            ask.withOpaqueCorrelationIds();
            ask.withSpringMessages();
            ask.withAReplyErrorChecker();
            ask.withAnErrorDeserializer();
        } finally {
            ask.producers.destroy();
        }
    }

    private void inAGroup() throws Exception {
        try (Line line = open("group", container(new StringDeserializer(), groupProperties()), template -> { })) {
            for (JsonNode question : plan.get("asks")) {
                line.ask(question);
            }
            ConsumerRecord<String, String> reply = line.record(plan.get("wrong").get("request"));
            Header error = reply.headers().lastHeader("learner-error");
            report("group", plan.get("wrong"), "error",
                    "header learner-error: " + new String(error.value(), StandardCharsets.UTF_8) + ", body " + reply.value());
            line.expectSilence(plan.get("refused"));
            for (JsonNode unproved : plan.get("unproved")) {
                reply = line.record(asRecord(plan.get("asks").get(0).get("request"), unproved.get("token")));
                report("group, unproved", unproved, "error", "header learner-error: "
                        + new String(reply.headers().lastHeader("learner-error").value(), StandardCharsets.UTF_8));
            }
        }
    }

    private void onAPartitionOfItsOwn() throws Exception {
        ContainerProperties own = new ContainerProperties(
                new TopicPartitionOffset(plan.get("reply_topic").asString(), OWN_PARTITION));
        try (Line line = open("partition " + OWN_PARTITION, container(new StringDeserializer(), own), template -> { })) {
            for (JsonNode question : plan.get("asks")) {
                ConsumerRecord<String, String> reply = line.ask(question);
                check("the reply is on the partition that kafka_replyPartition names", reply.partition() == OWN_PARTITION);
            }
        }
    }

    private void withOpaqueCorrelationIds() throws Exception {
        try (Line line = open("opaque correlation ids", container(new StringDeserializer(), groupProperties()),
                template -> template.setCorrelationIdStrategy(request -> new CorrelationKey(noise(257))))) {
            for (JsonNode question : plan.get("asks")) {
                ConsumerRecord<String, String> reply = line.ask(question);
                check("257 bytes of noise come back", reply.headers().lastHeader(KafkaHeaders.CORRELATION_ID).value().length == 257);
            }
        }
    }

    private void withSpringMessages() throws Exception {
        try (Line line = open("Message<?>, no key", container(new StringDeserializer(), groupProperties()),
                template -> template.setDefaultTopic(requests))) {
            for (JsonNode question : plan.get("asks")) {
                report("Message<?>, no key", question, "reply", line.message(question.get("request")).getPayload());
            }
            Message<?> reply = line.message(plan.get("wrong").get("request"));
            Object error = reply.getHeaders().get("learner-error");
            report("Message<?>, no key", plan.get("wrong"), "error",
                    "message header learner-error: " + (error instanceof byte[] text ? new String(text, StandardCharsets.UTF_8) : error)
                            + ", payload " + reply.getPayload());
        }
    }

    private void withAReplyErrorChecker() throws Exception {
        try (Line line = open("setReplyErrorChecker", container(new StringDeserializer(), groupProperties()),
                template -> {
                    template.setReplyErrorChecker(reply -> refusal(reply.headers(), reply.value()));
                    template.setBinaryCorrelation(false);
                })) {
            ConsumerRecord<String, String> reply = line.ask(plan.get("asks").get(0));
            check("a correlation id as text comes back", reply.headers().lastHeader(KafkaHeaders.CORRELATION_ID).value().length == 36);
            line.expectFailure(plan.get("wrong"));
        }
    }

    private void withAnErrorDeserializer() throws Exception {
        Deserializer<String> strict = new StringDeserializer() {
            @Override
            public String deserialize(String topic, Headers headers, byte[] value) {
                IllegalStateException refusal = refusal(headers, new String(value, StandardCharsets.UTF_8));
                if (refusal != null) {
                    throw refusal;
                }
                return super.deserialize(topic, headers, value);
            }
        };
        try (Line line = open("ErrorHandlingDeserializer",
                container(new ErrorHandlingDeserializer<>(strict), groupProperties()), template -> { })) {
            line.ask(plan.get("asks").get(0));
            line.expectFailure(plan.get("wrong"));
        }
    }

    private static IllegalStateException refusal(Headers headers, Object body) {
        return headers.lastHeader("learner-error") == null ? null : new IllegalStateException("the learner refused: " + body);
    }

    private ContainerProperties groupProperties() {
        ContainerProperties properties = new ContainerProperties(plan.get("reply_topic").asString());
        properties.setGroupId("spring-" + UUID.randomUUID());
        return properties;
    }

    private KafkaMessageListenerContainer<String, String> container(
            Deserializer<String> values, ContainerProperties properties) {
        Map<String, Object> settings = Map.of(
                ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, plan.get("bootstrap_servers").asString(),
                ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "latest");
        return new KafkaMessageListenerContainer<>(
                new DefaultKafkaConsumerFactory<>(settings, new StringDeserializer(), values), properties);
    }

    private Line open(String way, KafkaMessageListenerContainer<String, String> container,
            Consumer<ReplyingKafkaTemplate<String, String, String>> configure) throws Exception {
        ReplyingKafkaTemplate<String, String, String> template = new ReplyingKafkaTemplate<>(producers, container);
        template.setSharedReplyTopic(true);
        template.setDefaultReplyTimeout(PATIENCE);
        configure.accept(template);
        template.afterPropertiesSet();
        template.start();
        if (!template.waitForAssignment(PATIENCE)) {
            throw new IllegalStateException(way + ": no reply partition was assigned");
        }
        return new Line(way, template);
    }

    /** A running template, and the ways to put a question to it. */
    private final class Line implements AutoCloseable {
        private final String way;
        private final ReplyingKafkaTemplate<String, String, String> template;

        Line(String way, ReplyingKafkaTemplate<String, String, String> template) {
            this.way = way;
            this.template = template;
        }

        ConsumerRecord<String, String> ask(JsonNode question) throws Exception {
            ConsumerRecord<String, String> reply = record(question.get("request"));
            report(way, question, "reply", reply.value());
            return reply;
        }

        ConsumerRecord<String, String> record(JsonNode request) throws Exception {
            return record(asRecord(request));
        }

        ConsumerRecord<String, String> record(ProducerRecord<String, String> request) throws Exception {
            return template.sendAndReceive(request).get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        }

        Message<?> message(JsonNode request) throws Exception {
            MessageBuilder<String> message = MessageBuilder.withPayload(request.toString())
                    .setHeader("deadline", "2100-01-01T00:00:00Z");
            if (!plan.get("token").isNull()) {
                message.setHeader("authorization", "Bearer " + plan.get("token").asString());
            }
            return template.sendAndReceive(message.build()).get(PATIENCE.toSeconds(), TimeUnit.SECONDS);
        }

        void expectFailure(JsonNode question) throws Exception {
            try {
                record(question.get("request"));
                report(way, question, "error", "none: the future completed");
            } catch (ExecutionException error) {
                report(way, question, "error", "the future fails: " + innermost(error));
            }
        }

        void expectSilence(JsonNode question) throws Exception {
            ProducerRecord<String, String> request = asRecord(question.get("request"));
            request.headers().add(KafkaHeaders.REPLY_TOPIC, plan.get("unlisted_topic").asString().getBytes(StandardCharsets.UTF_8));
            try {
                ConsumerRecord<String, String> reply = template.sendAndReceive(request, SILENCE).get();
                report(way, question, "reply", reply.value());
            } catch (ExecutionException error) {
                report(way, question, "silence", error.getCause().getClass().getSimpleName());
            }
        }

        @Override
        public void close() {
            template.stop();
            template.destroy(); // ends its scheduler's thread
        }
    }

    private ProducerRecord<String, String> asRecord(JsonNode request) {
        return asRecord(request, plan.get("token"));
    }

    private ProducerRecord<String, String> asRecord(JsonNode request, JsonNode token) {
        ProducerRecord<String, String> asked = new ProducerRecord<>(requests, request.get("agent_id").asString(), request.toString());
        if (!token.isNull()) {
            asked.headers().add("authorization", ("Bearer " + token.asString()).getBytes(StandardCharsets.US_ASCII));
        }
        return asked;
    }

    private static Throwable innermost(Throwable error) {
        return error.getCause() == null ? error : innermost(error.getCause());
    }

    private static byte[] noise(int length) {
        byte[] noise = new byte[length];
        ThreadLocalRandom.current().nextBytes(noise);
        noise[0] = 0;
        noise[1] = (byte) 0xff;
        return noise;
    }

    private static void report(String way, JsonNode question, String kind, Object seen) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("way", way);
        line.put("ask", question.get("name").asString());
        line.put(kind, seen);
        print(line);
    }

    private static void check(String what, boolean holds) {
        print(Map.of("check", what, "holds", holds));
    }

    private static void print(Map<String, ?> line) {
        System.out.println(JSON.writeValueAsString(line));
    }
}
