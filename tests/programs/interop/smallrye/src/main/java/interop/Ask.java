package interop;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.LinkedHashMap;
import java.util.Map;

import io.smallrye.reactive.messaging.kafka.api.IncomingKafkaRecordMetadata;
import io.smallrye.reactive.messaging.kafka.api.OutgoingKafkaRecordMetadata;
import io.smallrye.reactive.messaging.kafka.reply.KafkaRequestReply;
import org.eclipse.microprofile.config.ConfigProvider;
import org.eclipse.microprofile.reactive.messaging.Message;
import org.jboss.weld.environment.se.Weld;
import org.jboss.weld.environment.se.WeldContainer;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;

/** Asks the learner through KafkaRequestReply, booted by Weld SE, and prints what it was told as JSON lines. */
public final class Ask {
    private static final JsonMapper JSON = new JsonMapper();
    private static final Duration PATIENCE = Duration.ofSeconds(20);
    private static final int OWN_PARTITION = 2;

    private Ask() {
    }

    public static void main(String[] arguments) {
        try {
            converse(arguments[0]);
            System.exit(0); // Vert.x keeps threads, also after the container's end
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private static void converse(String path) throws Exception {
        JsonNode plan = JSON.readTree(Path.of(path).toFile());
        print(Map.of("version", versionOf(KafkaRequestReply.class)));
        configure(plan);
        ConfigProvider.getConfig(); // Weld's extensions expect it to be there
        try (WeldContainer container = new Weld().initialize()) {
            Channels channels = container.select(Channels.class).get();
            withAllDefaults(plan, channels.standard());
            onAPartitionOfItsOwn(plan, channels.own());
            onAnUnlistedTopic(plan.get("refused"), channels.unlisted());
        }
    }

    private static void configure(JsonNode plan) {
        set("connector.smallrye-kafka.bootstrap.servers", plan.get("bootstrap_servers").asString());
        set("connector.smallrye-kafka.topic", plan.get("requests").asString());
        set("outgoing.own.reply.topic", plan.get("reply_topic").asString());
        set("outgoing.unlisted.reply.topic", plan.get("unlisted_topic").asString());
    }

    private static void set(String name, String value) {
        System.setProperty("mp.messaging." + name, value);
    }

    private static void withAllDefaults(JsonNode plan, KafkaRequestReply<String, String> channel) {
        channel.waitForAssignments().await().atMost(PATIENCE);
        for (JsonNode question : plan.get("asks")) {
            report("defaults", question, "reply", channel.request(question.get("request").toString()).await().atMost(PATIENCE));
        }
        JsonNode wrong = plan.get("wrong");
        try {
            String reply = channel.request(wrong.get("request").toString()).await().atMost(PATIENCE);
            report("defaults", wrong, "error", "none: the Uni completed with " + reply);
        } catch (IllegalStateException failure) {
            report("defaults", wrong, "error", "the Uni fails (reply.failure.handler): " + failure.getMessage());
        }
    }

    private static void onAPartitionOfItsOwn(JsonNode plan, KafkaRequestReply<String, String> channel) {
        channel.waitForAssignments().await().atMost(PATIENCE);
        for (JsonNode question : plan.get("asks")) {
            Message<String> reply = channel.request(keyed(question.get("request"))).await().atMost(PATIENCE);
            report("partition " + OWN_PARTITION, question, "reply", reply.getPayload());
            IncomingKafkaRecordMetadata<?, ?> metadata = reply.getMetadata(IncomingKafkaRecordMetadata.class).orElseThrow();
            check("the reply is on the partition that REPLY_PARTITION names", metadata.getPartition() == OWN_PARTITION);
            check("the reply has no REPLY_TOPIC", metadata.getHeaders().lastHeader("REPLY_TOPIC") == null);
            check("the reply keeps the request's key", question.get("request").get("agent_id").asString().equals(metadata.getKey()));
        }
        Message<String> reply = channel.request(keyed(plan.get("wrong").get("request"))).await().atMost(PATIENCE);
        byte[] code = reply.getMetadata(IncomingKafkaRecordMetadata.class).orElseThrow()
                .getHeaders().lastHeader("learner-error").value();
        report("partition " + OWN_PARTITION, plan.get("wrong"), "error",
                "header learner-error: " + new String(code, StandardCharsets.UTF_8) + ", payload " + reply.getPayload());
    }

    private static void onAnUnlistedTopic(JsonNode question, KafkaRequestReply<String, String> channel) {
        channel.waitForAssignments().await().atMost(PATIENCE);
        try {
            report("unlisted", question, "reply", channel.request(question.get("request").toString()).await().atMost(PATIENCE));
        } catch (RuntimeException failure) {
            report("unlisted", question, "silence", failure.getClass().getSimpleName());
        }
    }

    private static Message<String> keyed(JsonNode request) {
        return Message.of(request.toString()).addMetadata(
                OutgoingKafkaRecordMetadata.<String>builder().withKey(request.get("agent_id").asString()).build());
    }

    private static String versionOf(Class<?> type) {
        String path = type.getProtectionDomain().getCodeSource().getLocation().getPath();
        return path.replaceFirst(".*-(\\d[^/]*)\\.jar$", "$1");
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
