import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.KeyStoreWrapper;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.http.HttpServerTransport;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.OwnPlugins;

/**
 * One node of Elasticsearch on a free port of loopback.
 *
 * <p>Started with an empty folder and the folder of the plugins' jars, it prints its address and a
 * user's name and password as JSON, and serves until standard input closes.
 */
final class Receiver {
    private static final List<String> PLUGINS = List.of("transport-netty4", "x-pack-core", "x-pack-security");

    private static final String PASSWORD = "not-a-secret";

    private static final String ROLE =
            """
            writer:
              cluster: [monitor]
              indices:
                - names: ["logs-auditrelay.*"]
                  privileges: [create_doc, auto_configure]
            """;

    public static void main(String[] arguments) throws Exception {
        Path home = Path.of(arguments[0]).toAbsolutePath();
        Path jars = Path.of(arguments[1]);
        Path empty = Files.createDirectory(home.resolve("empty"));
        Path config = Files.createDirectory(home.resolve("config"));
        // A user for sending alone. Without a hash prefix, the text is the password itself.
        Files.writeString(config.resolve("users"), "writer:" + PASSWORD + "\n");
        Files.writeString(config.resolve("users_roles"), "writer:writer\n");
        Files.writeString(config.resolve("roles.yml"), ROLE);
        LogConfigurator.setNodeName("interop");
        LogConfigurator.configureESLogging();
        KeyStoreWrapper secrets = KeyStoreWrapper.create();
        secrets.setString("bootstrap.password", PASSWORD.toCharArray());
        Settings settings =
                Settings.builder()
                        .setSecureSettings(secrets)
                        .put("path.home", home.toString())
                        .put("cluster.name", "interop")
                        .put("discovery.type", "single-node")
                        .put("xpack.security.enabled", true)
                        .put("network.host", "127.0.0.1")
                        .put("http.port", "0")
                        .put("transport.port", "0")
                        // A developer's disk is often nearly full, which would make indices
                        // read-only and prove nothing about auditrelay.
                        .put("cluster.routing.allocation.disk.threshold_enabled", false)
                        .build();
        Environment environment =
                InternalSettingsPreparer.prepareEnvironment(
                        settings, Map.of(), config, () -> "interop");
        try (Node node = new Node(environment, new OwnPlugins(jars, empty, PLUGINS, Banner.class))) {
            node.start();
            HttpServerTransport http = node.injector().getInstance(HttpServerTransport.class);
            System.out.printf(
                    "{\"url\": \"http://%s\", \"username\": \"elastic\", \"password\": \"%s\"}%n",
                    http.boundAddress().publishAddress(), PASSWORD);
            while (System.in.read() != -1) {}
        }
    }
}
