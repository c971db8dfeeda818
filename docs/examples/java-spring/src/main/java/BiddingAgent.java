import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ExecutionException;

import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.springframework.kafka.core.DefaultKafkaConsumerFactory;
import org.springframework.kafka.core.DefaultKafkaProducerFactory;
import org.springframework.kafka.listener.ContainerProperties;
import org.springframework.kafka.listener.KafkaMessageListenerContainer;
import org.springframework.kafka.requestreply.ReplyingKafkaTemplate;
import org.springframework.kafka.support.serializer.JacksonJsonDeserializer;
import org.springframework.kafka.support.serializer.JacksonJsonSerializer;
import tools.jackson.databind.JsonNode;

/** A bidding agent: asks the learner what to bid, and bids its base where there is no advice. */
public final class BiddingAgent {
    private static final Map<String, Object> KAFKA = Map.of(
            "bootstrap.servers", System.getenv().getOrDefault("LEARNER_BOOTSTRAP_SERVERS", "localhost:9092"));

    /** Where the learner wants to know who asks. */
    private static final String TOKEN_FILE = System.getenv("LEARNER_TOKEN_FILE");

    /** The last two are optional; cost_sats is what the effort costs this agent, whether it succeeds or not. */
    record Request(String agent_id, long base_bid_sats, String description, String strategy, long cost_sats) {
    }

    private static final Request ECHO = new Request("echo", 1_000, "Fix the invoice parser", "expected-profit", 550);

    public static void main(String[] arguments) throws InterruptedException, IOException {
        var producers = new DefaultKafkaProducerFactory<>(
                KAFKA, new StringSerializer(), new JacksonJsonSerializer<Request>().noTypeInfo());
        var consumers = new DefaultKafkaConsumerFactory<>(
                KAFKA, new StringDeserializer(), new JacksonJsonDeserializer<>(JsonNode.class).ignoreTypeHeaders());
        var replies = new ContainerProperties("suggest-bid-replies.agents"); // create this topic first
        replies.setGroupId("bidding-agent-" + UUID.randomUUID()); // every replica reads all replies ...
        var learner = new ReplyingKafkaTemplate<>(producers, new KafkaMessageListenerContainer<>(consumers, replies));
        learner.setSharedReplyTopic(true); // ... and ignores those of the others
        learner.afterPropertiesSet();
        learner.start();
        learner.waitForAssignment(Duration.ofSeconds(10));

        System.out.println(bid(learner, ECHO));
        learner.stop();
        learner.destroy();
        producers.destroy();
    }

    private static String bid(ReplyingKafkaTemplate<String, Request, JsonNode> learner, Request request)
            throws InterruptedException, IOException {
        var asked = new ProducerRecord<>("suggest-bid-requests", request.agent_id(), request);
        if (TOKEN_FILE != null) { // read each time: whoever renews it replaces the file
            String token = Files.readString(Path.of(TOKEN_FILE)).strip();
            asked.headers().add("authorization", ("Bearer " + token).getBytes(StandardCharsets.US_ASCII));
        }
        try {
            JsonNode reply = learner.sendAndReceive(asked, Duration.ofSeconds(2)).get().value();
            if (!reply.has("error")) {
                return "echo bids " + reply.get("suggested_bid_sats").asLong() + " sats: " + reply.get("adjustments");
            }
            return "echo bids " + request.base_bid_sats() + " sats: " + reply.get("error");
        } catch (ExecutionException noReply) {
            return "echo bids " + request.base_bid_sats() + " sats: " + noReply.getCause().getMessage();
        }
    }
}
