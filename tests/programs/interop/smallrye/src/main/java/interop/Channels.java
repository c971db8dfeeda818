package interop;

import io.smallrye.reactive.messaging.kafka.reply.KafkaRequestReply;
import jakarta.enterprise.context.ApplicationScoped;
import jakarta.inject.Inject;
import org.eclipse.microprofile.reactive.messaging.Channel;

/** The request-reply emitters, as an application injects them. */
@ApplicationScoped
public class Channels {
    @Inject
    @Channel("standard")
    KafkaRequestReply<String, String> standard;

    @Inject
    @Channel("own")
    KafkaRequestReply<String, String> own;

    @Inject
    @Channel("unlisted")
    KafkaRequestReply<String, String> unlisted;

    KafkaRequestReply<String, String> standard() {
        return standard;
    }

    KafkaRequestReply<String, String> own() {
        return own;
    }

    KafkaRequestReply<String, String> unlisted() {
        return unlisted;
    }
}
