import java.nio.file.Path;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.http.HttpServerTransport;
import org.opensearch.index.mapper.MapperExtrasPlugin;
import org.opensearch.ingest.common.IngestCommonPlugin;
import org.opensearch.node.InternalSettingsPreparer;
import org.opensearch.node.Node;
import org.opensearch.plugins.Plugin;
import org.opensearch.transport.Netty4Plugin;

/**
 * One node of OpenSearch on a free port of loopback.
 *
 * <p>Started with an empty folder, it prints its address as JSON and serves until standard input closes.
 */
final class Receiver extends Node {
    private static final Collection<Class<? extends Plugin>> PLUGINS =
            List.of(Netty4Plugin.class, MapperExtrasPlugin.class, IngestCommonPlugin.class);

    private Receiver(Environment environment) {
        super(environment, PLUGINS, true);
    }

    public static void main(String[] arguments) throws Exception {
        Settings settings =
                Settings.builder()
                        .put("path.home", Path.of(arguments[0]).toAbsolutePath().toString())
                        .put("cluster.name", "interop")
                        .put("discovery.type", "single-node")
                        .put("network.host", "127.0.0.1")
                        .put("http.port", "0")
                        .put("transport.port", "0")
                        .put("transport.type", "netty4")
                        .put("http.type", "netty4")
                        // A developer's disk is often nearly full, which would make indices
                        // read-only and prove nothing about auditrelay.
                        .put("cluster.routing.allocation.disk.threshold_enabled", false)
                        .build();
        Environment environment =
                InternalSettingsPreparer.prepareEnvironment(
                        settings, Map.of(), null, () -> "interop");
        try (Receiver node = new Receiver(environment)) {
            node.start();
            HttpServerTransport http = node.injector().getInstance(HttpServerTransport.class);
            System.out.printf(
                    "{\"url\": \"http://%s\"}%n", http.boundAddress().publishAddress());
            while (System.in.read() != -1) {}
        }
    }
}
