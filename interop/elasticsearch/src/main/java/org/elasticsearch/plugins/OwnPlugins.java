package org.elasticsearch.plugins;

import java.io.IOException;
import java.io.InputStream;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Enumeration;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;
import org.elasticsearch.Build;

/**
 * Plugins of one jar each, as in a Maven repository.
 *
 * <p>Elasticsearch itself wants a folder for each, with all that it needs. Here a plugin has a class
 * loader of its own for its jar alone, whose parent is that of the plugin before it; what plugins
 * need otherwise is on the class path.
 */
public final class OwnPlugins extends PluginsLoader {
    private final List<PluginLayer> layers = new ArrayList<>();

    /**
     * Takes those of {@code names} out of {@code jars}, and {@code ours}, which has no jar.
     *
     * @param empty an empty folder
     */
    public OwnPlugins(Path jars, Path empty, List<String> names, Class<? extends Plugin> ours)
            throws IOException {
        super(Set.of(), Set.of(), Map.of());
        ClassLoader parent = getClass().getClassLoader();
        for (String name : names) {
            Own own = new Own(jars.resolve(name + ".jar"), parent);
            String place = "META-INF/es-plugins/" + name + "/plugin-descriptor.properties";
            try (InputStream text = own.getResourceAsStream(place)) {
                PluginDescriptor plugin = PluginDescriptor.readInternalDescriptorFromStream(text);
                layers.add(new Layer(new PluginBundle(plugin, empty), own));
            }
            parent = own;
        }
        String version = Build.current().version();
        PluginDescriptor descriptor =
                new PluginDescriptor(
                        ours.getName(), "ours", "1", version, "17", ours.getName(), null,
                        List.of(), false, false, false, false);
        layers.add(new Layer(new PluginBundle(descriptor, empty), ours.getClassLoader()));
    }

    @Override
    public Stream<PluginLayer> pluginLayers() {
        return layers.stream();
    }

    private record Layer(PluginBundle pluginBundle, ClassLoader pluginClassLoader)
            implements PluginLayer {
        @Override
        public ModuleLayer pluginModuleLayer() {
            return ModuleLayer.boot();
        }
    }

    private static final class Own extends URLClassLoader {
        private Own(Path jar, ClassLoader parent) throws MalformedURLException {
            super(new URL[] {jar.toUri().toURL()}, parent);
        }

        /** Services of other plugins are not services of this one. */
        @Override
        public Enumeration<URL> getResources(String name) throws IOException {
            boolean service = name.startsWith("META-INF/services/org.elasticsearch");
            return service ? findResources(name) : super.getResources(name);
        }
    }
}
