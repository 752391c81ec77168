import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/**
 * Posts every line of standard input to one URL with the JDK's own client, and writes status and body of each response.
 *
 * <p>Arguments: URL, secret, and how: {@code one-by-one} or {@code at-once}, {@code sized} or {@code streamed}, and
 * optionally {@code continue}. The client offers an upgrade to HTTP/2 with the first request of every connection, as it
 * does unless told otherwise.
 */
class ApiClient {
    public static void main(String[] arguments) throws Exception {
        List<String> how = List.of(arguments).subList(2, arguments.length);
        List<String> bodies = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)).lines().toList();
        HttpClient client = HttpClient.newHttpClient();
        List<CompletableFuture<String>> answers = bodies.stream().map(body -> {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Authorization", "Bearer " + arguments[1])
                .header("Content-Type", "application/json")
                .timeout(Duration.ofSeconds(20))
                .expectContinue(how.contains("continue"))
                .POST(publisher(body, how.contains("streamed")))
                .build();
            CompletableFuture<String> answer = client.sendAsync(request, BodyHandlers.ofString()).thenApply(ApiClient::line);
            if (how.contains("one-by-one")) {
                answer.join();
            }
            return answer;
        }).toList();
        answers.forEach(answer -> System.out.println(answer.join()));
    }

    /** A body with its length, or (as its length is not known) in chunks. */
    private static BodyPublisher publisher(String body, boolean streamed) {
        byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
        return streamed
            ? BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(bytes))
            : BodyPublishers.ofByteArray(bytes);
    }

    private static String line(HttpResponse<String> response) {
        return response.statusCode() + " " + response.body();
    }
}
