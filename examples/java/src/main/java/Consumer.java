import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.util.Durations;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.*;
import io.grpc.protobuf.StatusProto;
import java.io.IOException;
import java.nio.file.Path;
import java.util.*;
import java.util.concurrent.*;
import sun.misc.Signal;
import watchmark.v1.*;

/**
 * Keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted meanwhile.
 *
 * <p>Consumer ADDRESS CLIENT_ID PREFIX STATE_FILE, where ADDRESS is HOST:PORT or unix:///path.sock
 *
 * <p>Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over.
 */
public class Consumer {
  static final long DELAY_MIN = 100, DELAY_MAX = 5_000;

  final ManagedChannel channel;
  final SubscribeRequest request;
  final LocalCopy copy;
  final CountDownLatch stopping = new CountDownLatch(1);
  final Context.CancellableContext streams = Context.current().withCancellation();
  long delay = DELAY_MIN;
  // Of the present stream.
  long sessionId, delivered, acked;
  List<KeyValue> snapshot = new ArrayList<>();
  List<Event> events = new ArrayList<>();

  Consumer(String address, String clientId, String prefix, String stateFile) throws IOException {
    var builder = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create());
    // The authority of a Unix socket would else be its path, which HTTP/2 forbids.
    channel = builder.overrideAuthority("localhost").keepAliveTime(20, TimeUnit.SECONDS).build();
    // The limit bounds the inbox: above it watchmark waits, and etcd's history is the buffer.
    var wanted = SubscribeRequest.newBuilder().setClientId(clientId).setMaxUnackedEvents(10_000);
    request = wanted.setPrefix(ByteString.copyFromUtf8(prefix)).build();
    copy = new LocalCopy(Path.of(stateFile));
  }

  public static void main(String[] args) throws Exception {
    Consumer consumer = new Consumer(args[0], args[1], args[2], args[3]);
    Signal.handle(new Signal("TERM"), signal -> {
      consumer.stopping.countDown();
      consumer.streams.cancel(null);
    });
    System.exit(consumer.run());
  }

  int run() throws Exception {
    for (; ; delay = Math.min(delay * 2, DELAY_MAX)) {
      Throwable ended = stream();
      ErrorInfo info = null;
      RetryInfo retry = null;
      for (Any detail : StatusProto.fromThrowable(ended).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) info = detail.unpack(ErrorInfo.class);
        if (detail.is(RetryInfo.class)) retry = detail.unpack(RetryInfo.class);
      }
      System.err.println("ended: " + (info == null ? "" : info.getReason()) + " " + ended.getMessage());
      // Without RetryInfo asking again would not help.
      if (info != null && retry == null) return info.getReason().equals("SESSION_SUPERSEDED") ? 3 : 1;
      if (retry != null) delay = Math.max(delay, Durations.toMillis(retry.getRetryDelay()));
      if (stopping.await(delay + ThreadLocalRandom.current().nextLong(delay / 2), TimeUnit.MILLISECONDS)) return 0;
    }
  }

  /** Follows one stream. What has piled up is processed, and acknowledged, together. */
  Throwable stream() throws IOException, InterruptedException {
    channel.resetConnectBackoff(); // run has its own
    var api = WatchServiceGrpc.newBlockingStub(channel);
    delivered = acked = 0;
    events.clear();
    var inbox = new LinkedBlockingQueue<>();
    var read = streams.wrap(() -> api.subscribe(request).forEachRemaining(inbox::add));
    CompletableFuture.runAsync(read, task -> new Thread(task).start())
        .whenComplete((nothing, error) -> inbox.add(error == null ? Status.UNAVAILABLE.asException() : error));
    while (true) {
      Object next = inbox.take();
      if (next instanceof SubscribeResponse message) receive(message);
      if (inbox.isEmpty() && delivered > acked) commit();
      if (next instanceof Throwable ended) return ended;
    }
  }

  void receive(SubscribeResponse message) {
    switch (message.getMessageCase()) {
      case OPENED -> {
        delay = DELAY_MIN;
        sessionId = message.getOpened().getSessionId();
        acked = message.getOpened().getCheckpoint();
        // Our copy is lost: this stream ends, and the next has a snapshot.
        if (message.getOpened().getResumed() && copy.revision() == 0) {
          var seek = SeekSubscriptionRequest.newBuilder().setClientId(request.getClientId()).setSnapshot(true);
          AdminServiceGrpc.newBlockingStub(channel).seekSubscription(seek.build());
        }
      }
      case SNAPSHOT_BEGIN -> { // whatever came before it is void
        acked = 0;
        snapshot.clear();
        events.clear();
      }
      case SNAPSHOT_CHUNK -> snapshot.addAll(message.getSnapshotChunk().getKvsList());
      case SNAPSHOT_END -> {
        delivered = message.getSnapshotEnd().getRevision();
        copy.replace(delivered, snapshot);
        snapshot.clear();
      }
      case EVENTS -> {
        events.addAll(message.getEvents().getEventsList());
        // A revision is processed whole.
        if (!message.getEvents().getPartial()) reached(message.getEvents().getRevision());
      }
      case PROGRESS -> reached(message.getProgress().getRevision()); // up to here nothing else happened
      case STATE -> System.out.println(message.getState().getState());
      // And MESSAGE_NOT_SET: what a later version sends.
    }
  }

  void reached(long revision) {
    if (copy.revision() == 0) return; // there is nothing yet that it could be applied to
    copy.apply(revision, events);
    delivered = revision;
    events.clear();
  }

  /** First durable here, then acknowledged: never the other way round. */
  void commit() throws IOException {
    copy.save();
    var ack = AckRequest.newBuilder().setClientId(request.getClientId()).setRevision(delivered).setSessionId(sessionId);
    try {
      var api = WatchServiceGrpc.newBlockingStub(channel).withDeadlineAfter(30, TimeUnit.SECONDS);
      acked = api.ack(ack.build()).getCheckpoint();
      System.out.println("ACKED " + acked);
    } catch (StatusRuntimeException error) { // a later ack makes up for it, or the next stream
      System.err.println("not acked: " + error.getMessage());
    }
  }
}
