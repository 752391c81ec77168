import com.eatthepath.pushy.apns.auth.ApnsVerificationKey;
import com.eatthepath.pushy.apns.server.MockApnsServer;
import com.eatthepath.pushy.apns.server.MockApnsServerBuilder;
import com.eatthepath.pushy.apns.server.MockApnsServerListener;
import com.eatthepath.pushy.apns.server.PushNotificationHandler;
import com.eatthepath.pushy.apns.server.PushNotificationHandlerFactory;
import com.eatthepath.pushy.apns.server.RejectedNotificationException;
import com.eatthepath.pushy.apns.server.RejectionReason;
import com.eatthepath.pushy.apns.server.ValidatingPushNotificationHandlerFactory;
import io.netty.buffer.ByteBuf;
import io.netty.buffer.ByteBufUtil;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.handler.codec.http2.DefaultHttp2Headers;
import io.netty.handler.codec.http2.Http2Headers;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.InputStreamReader;
import java.math.BigInteger;
import java.time.Instant;
import java.util.Arrays;
import java.util.Base64;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/**
 * pushy's mock of APNs, once as production and once as sandbox: it checks every push, and writes what came of it.
 *
 * <p>Arguments: a file with the servers' certificate and key, and for the key of provider tokens its public key, the team
 * id, the key id and the topics that it may push to (with commas between). Each line of standard input is a command, which
 * begins with {@code production} or {@code sandbox}; {@code mock_apple.py} beside this directory says which there are.
 * Standard output has a line for each command that was obeyed, each server that listens, and each push.
 */
class ApnsServer {
    private final String environment;
    private final File credentials;
    private final ApnsVerificationKey key;
    private final Set<String> topics;
    private final NioEventLoopGroup loop = new NioEventLoopGroup(1);
    private final Map<String, Set<String>> tokensByTopic = new ConcurrentHashMap<>();
    private final Map<String, Instant> goneSince = new ConcurrentHashMap<>();
    private final Set<String> bad = ConcurrentHashMap.newKeySet();
    private MockApnsServer server;

    public static void main(String[] arguments) throws Exception {
        File credentials = new File(arguments[0]);
        ApnsVerificationKey key = ApnsVerificationKey.loadFromPkcs8File(new File(arguments[1]), arguments[2], arguments[3]);
        Set<String> topics = Set.of(arguments[4].split(","));
        Map<String, ApnsServer> servers = Map.of(
            "production", new ApnsServer("production", credentials, key, topics),
            "sandbox", new ApnsServer("sandbox", credentials, key, topics));
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] words = line.split(" ");
            servers.get(words[0]).obey(Arrays.copyOfRange(words, 1, words.length));
            say(words[0] + "\tobeyed\t" + words[1]);
        }
        System.exit(0);
    }

    private ApnsServer(String environment, File credentials, ApnsVerificationKey key, Set<String> topics) {
        this.environment = environment;
        this.credentials = credentials;
        this.key = key;
        this.topics = topics;
    }

    private void obey(String[] command) throws Exception {
        switch (command[0]) {
            case "good" -> tokensByTopic.computeIfAbsent(command[1], topic -> ConcurrentHashMap.newKeySet()).add(command[2]);
            case "gone" -> goneSince.put(command[1], Instant.ofEpochMilli(Long.parseLong(command[2])));
            case "bad" -> bad.add(command[1]);
            case "start" -> {
                if (server != null) {
                    server.shutdown().get();
                }
                start(Integer.parseInt(command[1]), Integer.parseInt(command[2]));
            }
            default -> throw new IllegalArgumentException(command[0]);
        }
    }

    private void start(int streams, int port) throws Exception {
        server = new MockApnsServerBuilder()
            .setServerCredentials(credentials, credentials, null)
            .setTrustedClientCertificateChain(credentials)
            .setEventLoopGroup(loop)
            .setMaxConcurrentStreams(streams)
            .setUseAlpn(true)
            .setHandlerFactory(handlers())
            .setListener(listener())
            .build();
        say(environment + "\tlistening\t" + server.start(port).get());
    }

    private PushNotificationHandlerFactory handlers() {
        PushNotificationHandlerFactory strict = new ValidatingPushNotificationHandlerFactory(
            tokensByTopic, goneSince, Map.of(key.getKeyId(), key), Map.of(key, topics));
        return session -> {
            PushNotificationHandler handler = strict.buildHandler(session);
            return (headers, payload) -> {
                String path = String.valueOf(headers.path());
                if (bad.contains(path.substring(path.lastIndexOf('/') + 1))) {
                    throw new RejectedNotificationException(RejectionReason.BAD_DEVICE_TOKEN);
                }
                handler.handlePushNotification(withDerSignature(headers), payload);
            };
        };
    }

    private MockApnsServerListener listener() {
        return new MockApnsServerListener() {
            @Override
            public void handlePushNotificationAccepted(Http2Headers headers, ByteBuf payload) {
                byte[] bytes = ByteBufUtil.getBytes(payload);
                tell("accepted", headers, Base64.getEncoder().encodeToString(bytes));
            }

            @Override
            public void handlePushNotificationRejected(
                    Http2Headers headers, ByteBuf payload, RejectionReason reason, Instant goneSince) {
                tell("rejected", headers, reason.name());
            }
        };
    }

    private void tell(String what, Http2Headers headers, String more) {
        StringBuilder line = new StringBuilder(environment).append('\t').append(what).append('\t').append(more);
        headers.forEach(field -> {
            if (!field.getKey().toString().equals("authorization")) {
                line.append('\t').append(field.getKey()).append('=').append(field.getValue());
            }
        });
        say(line.toString());
    }

    /** Written before the response to the push is: a process that is killed then has said what it accepted. */
    private static synchronized void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /**
     * The same header fields, with the provider token's signature as pushy reads it.
     *
     * <p>RFC 7518, 3.4: the signature is R and S, 32 bytes each. pushy takes the DER form of a certificate's signature
     * instead, and only that.
     */
    private static Http2Headers withDerSignature(Http2Headers headers) throws RejectedNotificationException {
        if (!headers.contains("authorization")) {
            return headers;
        }
        String authorization = headers.get("authorization").toString();
        int dot = authorization.lastIndexOf('.');
        byte[] signature = Base64.getUrlDecoder().decode(authorization.substring(dot + 1));
        if (signature.length != 64) {
            throw new RejectedNotificationException(RejectionReason.INVALID_PROVIDER_TOKEN);
        }
        byte[] r = new BigInteger(1, Arrays.copyOfRange(signature, 0, 32)).toByteArray();
        byte[] s = new BigInteger(1, Arrays.copyOfRange(signature, 32, 64)).toByteArray();
        ByteArrayOutputStream der = new ByteArrayOutputStream();
        der.write(0x30);
        der.write(r.length + s.length + 4);
        for (byte[] integer : new byte[][] {r, s}) {
            der.write(0x02);
            der.write(integer.length);
            der.writeBytes(integer);
        }
        String changed = Base64.getUrlEncoder().withoutPadding().encodeToString(der.toByteArray());
        Http2Headers copy = new DefaultHttp2Headers(false).setAll(headers);
        return copy.set("authorization", authorization.substring(0, dot + 1) + changed);
    }
}
