import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import sun.misc.Signal;
import watchmark.v1.*;
import watchmark.v1.Event.EventType;

/**
 * Keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted meanwhile.
 *
 * <p>Consumer ADDRESS CLIENT_ID PREFIX STATE_FILE, where ADDRESS is HOST:PORT or unix:///path.sock
 *
 * <p>Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over.
 */
public class Consumer {
  /** The work: the range's pairs as of that revision. */
  record State(long revision, Map<String, String> pairs) {}

  static final long DELAY_MIN = 100, DELAY_MAX = 5_000;

  final ManagedChannel channel;
  final String clientId, prefix;
  final Path stateFile;
  final CountDownLatch stopping = new CountDownLatch(1);
  final Context.CancellableContext stream = Context.current().withCancellation();
  State state = new State(0, new HashMap<>());
  long delay = DELAY_MIN;
  // Of the present stream.
  long sessionId, delivered, acked;
  List<Event> parts = new ArrayList<>();
  Map<String, String> snapshot = new HashMap<>();

  Consumer(String address, String clientId, String prefix, String stateFile) throws IOException {
    var builder = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create());
    // The authority of a Unix socket would else be its path, which HTTP/2 forbids.
    channel = builder.overrideAuthority("localhost").keepAliveTime(20, TimeUnit.SECONDS).build();
    this.clientId = clientId;
    this.prefix = prefix;
    this.stateFile = Path.of(stateFile);
    if (Files.exists(this.stateFile)) {
      state = new Gson().fromJson(Files.readString(this.stateFile), State.class);
    }
  }

  public static void main(String[] args) throws Exception {
    Consumer consumer = new Consumer(args[0], args[1], args[2], args[3]);
    Signal.handle(new Signal("TERM"), signal -> {
      consumer.stopping.countDown();
      consumer.stream.cancel(null);
    });
    System.exit(consumer.run());
  }

  int run() throws Exception {
    while (true) {
      ErrorInfo info = null;
      RetryInfo retry = null;
      try {
        stream();
      } catch (StatusRuntimeException error) {
        for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
          info = detail.is(ErrorInfo.class) ? detail.unpack(ErrorInfo.class) : info;
          retry = detail.is(RetryInfo.class) ? detail.unpack(RetryInfo.class) : retry;
        }
        System.err.println("ended: " + (info == null ? "" : info.getReason()) + " " + error.getMessage());
      }
      if (info != null && retry == null) { // asking again would not help
        return info.getReason().equals("SESSION_SUPERSEDED") ? 3 : 1;
      }
      long pause = Math.max(delay, retry == null ? 0 : retry.getRetryDelay().getSeconds() * 1000 + retry.getRetryDelay().getNanos() / 1_000_000);
      if (stopping.await(pause + ThreadLocalRandom.current().nextLong(pause / 2), TimeUnit.MILLISECONDS)) {
        return 0;
      }
      delay = Math.min(delay * 2, DELAY_MAX);
    }
  }

  /** Follows one stream. What has piled up is processed, and acknowledged, together. */
  void stream() throws Exception {
    channel.resetConnectBackoff();
    parts.clear();
    delivered = acked = 0;
    // The limit bounds the inbox: above it watchmark waits, and etcd's history is the buffer.
    var wanted = SubscribeRequest.newBuilder().setClientId(clientId).setMaxUnackedEvents(10_000);
    var request = wanted.setPrefix(ByteString.copyFromUtf8(prefix)).build();
    var inbox = new LinkedBlockingQueue<>();
    stream.run(() -> WatchServiceGrpc.newStub(channel).subscribe(request, new StreamObserver<>() {
      public void onNext(SubscribeResponse message) {
        inbox.add(message);
      }

      public void onError(Throwable error) {
        inbox.add(error);
      }

      public void onCompleted() {
        inbox.add(Status.UNAVAILABLE.asRuntimeException());
      }
    }));
    while (true) {
      Object next = inbox.take();
      if (next instanceof SubscribeResponse message) {
        receive(message);
      }
      if (inbox.isEmpty()) {
        commit();
      }
      if (next instanceof StatusRuntimeException error) {
        throw error;
      }
    }
  }

  void receive(SubscribeResponse message) throws Exception {
    switch (message.getMessageCase()) {
      case OPENED -> {
        delay = DELAY_MIN;
        sessionId = message.getOpened().getSessionId();
        acked = message.getOpened().getCheckpoint();
        // Our file is lost: this stream ends, and the next has a snapshot.
        if (message.getOpened().getResumed() && state.revision == 0) {
          var seek = SeekSubscriptionRequest.newBuilder().setClientId(clientId).setSnapshot(true).build();
          AdminServiceGrpc.newBlockingStub(channel).seekSubscription(seek);
        }
      }
      case SNAPSHOT_BEGIN -> snapshot = new HashMap<>();
      case SNAPSHOT_CHUNK -> {
        for (KeyValue kv : message.getSnapshotChunk().getKvsList()) {
          snapshot.put(kv.getKey().toStringUtf8(), kv.getValue().toStringUtf8());
        }
      }
      case SNAPSHOT_END -> { // what is not in it no longer exists
        delivered = message.getSnapshotEnd().getRevision();
        state = new State(delivered, snapshot);
        System.out.println("SNAPSHOT " + snapshot.size());
      }
      case EVENTS -> {
        parts.addAll(message.getEvents().getEventsList());
        if (!message.getEvents().getPartial()) { // a revision is processed whole
          reached(message.getEvents().getRevision());
        }
      }
      case PROGRESS -> reached(message.getProgress().getRevision()); // up to here nothing else happened
      case STATE -> System.out.println(message.getState().getState());
      case MESSAGE_NOT_SET -> {}
    }
  }

  void reached(long revision) {
    if (state.revision == 0) {
      return; // there is nothing yet that it could be applied to
    }
    for (Event event : parts) {
      if (event.getKv().getModRevision() > state.revision) { // else it is here already: only its ack was lost
        String key = event.getKv().getKey().toStringUtf8();
        if (event.getType() == EventType.PUT) {
          state.pairs.put(key, event.getKv().getValue().toStringUtf8());
        } else {
          state.pairs.remove(key);
        }
        System.out.println(event.getType() + " " + key);
      }
    }
    parts.clear();
    delivered = revision;
    state = new State(Math.max(revision, state.revision), state.pairs);
  }

  /** First durable here, then acknowledged: never the other way round. */
  void commit() throws IOException, InterruptedException {
    if (delivered <= acked) {
      return;
    }
    Path next = Path.of(stateFile + ".new");
    try (FileOutputStream file = new FileOutputStream(next.toFile())) {
      file.write(new Gson().toJson(state).getBytes("UTF-8"));
      file.getFD().sync();
    }
    Files.move(next, stateFile, StandardCopyOption.ATOMIC_MOVE);
    var ack = AckRequest.newBuilder().setClientId(clientId).setRevision(delivered).setSessionId(sessionId).build();
    try {
      var api = WatchServiceGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
      acked = api.ack(ack).getCheckpoint();
      System.out.println("ACKED " + acked);
    } catch (StatusRuntimeException error) { // a later ack makes up for it, or the next stream
      System.err.println("not acked: " + error.getMessage());
    }
  }
}
