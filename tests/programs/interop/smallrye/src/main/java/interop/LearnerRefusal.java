package interop;

import java.nio.charset.StandardCharsets;

import io.smallrye.common.annotation.Identifier;
import io.smallrye.reactive.messaging.kafka.KafkaRecord;
import io.smallrye.reactive.messaging.kafka.reply.ReplyFailureHandler;
import jakarta.enterprise.context.ApplicationScoped;
import org.apache.kafka.common.header.Header;

/** Turns an error reply into a failure of the Uni: `reply.failure.handler=learner`. */
@ApplicationScoped
@Identifier("learner")
public class LearnerRefusal implements ReplyFailureHandler {
    @Override
    public Throwable handleReply(KafkaRecord<?, ?> reply) {
        Header code = reply.getHeaders().lastHeader("learner-error");
        return code == null ? null
                : new IllegalStateException(new String(code.value(), StandardCharsets.UTF_8) + ": " + reply.getPayload());
    }
}
