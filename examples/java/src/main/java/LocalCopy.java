import com.google.gson.Gson;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import watchmark.v1.Event;
import watchmark.v1.Event.EventType;
import watchmark.v1.KeyValue;

/** Stands for the application's own work: a durable copy of the range, as of one revision. */
class LocalCopy {
  record State(long revision, Map<String, String> pairs) {}

  private final Path file;
  private State state = new State(0, new HashMap<>());

  LocalCopy(Path file) throws IOException {
    this.file = file;
    if (Files.exists(file)) {
      state = new Gson().fromJson(Files.readString(file), State.class);
    }
  }

  /** 0: there is nothing yet. */
  long revision() {
    return state.revision;
  }

  /** By a snapshot: what is not in it no longer exists. */
  void replace(long revision, List<KeyValue> kvs) {
    state = new State(revision, new HashMap<>());
    for (KeyValue kv : kvs) {
      state.pairs.put(kv.getKey().toStringUtf8(), kv.getValue().toStringUtf8());
    }
    System.out.println("SNAPSHOT " + kvs.size());
  }

  /** Whole revisions. What is here already comes again when only its ack was lost. */
  void apply(long revision, List<Event> events) {
    for (Event event : events) {
      if (event.getKv().getModRevision() > state.revision) {
        String key = event.getKv().getKey().toStringUtf8();
        if (event.getType() == EventType.PUT) {
          state.pairs.put(key, event.getKv().getValue().toStringUtf8());
        } else {
          state.pairs.remove(key);
        }
        System.out.println(event.getType() + " " + key);
      }
    }
    state = new State(Math.max(state.revision, revision), state.pairs);
  }

  void save() throws IOException {
    Path next = Path.of(file + ".new");
    try (FileOutputStream out = new FileOutputStream(next.toFile())) {
      out.write(new Gson().toJson(state).getBytes(StandardCharsets.UTF_8));
      out.getFD().sync();
    }
    Files.move(next, file, StandardCopyOption.ATOMIC_MOVE);
  }
}
