// Command consumer keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted
// meanwhile.
//
//	consumer ADDRESS CLIENT_ID PREFIX STATE_FILE     ADDRESS: HOST:PORT or unix:///path.sock
//
// Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over.
package main

import (
	"context"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/googleapis/gax-go/v2/apierror"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "example.com/consumer/gen/watchmark/v1"
)

const delayMin, delayMax = 100 * time.Millisecond, 5 * time.Second

type consumer struct {
	conn    *grpc.ClientConn
	request *pb.SubscribeRequest
	copy    *localCopy
	delay   time.Duration
	// Of the present stream.
	ack      *pb.AckRequest
	acked    int64
	snapshot []*pb.KeyValue
	events   []*pb.Event
}

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second}))
	must(err)
	// The limit bounds what waits for its ack: above it watchmark waits.
	request := &pb.SubscribeRequest{ClientId: os.Args[2], Prefix: []byte(os.Args[3]), MaxUnackedEvents: 10_000}
	c := &consumer{conn: conn, request: request, copy: loadCopy(os.Args[4]), delay: delayMin}
	os.Exit(c.run(ctx))
}

func (c *consumer) run(ctx context.Context) int {
	for ; ; c.delay = min(c.delay*2, delayMax) {
		why, _ := apierror.FromError(status.Convert(c.stream(ctx)).Err())
		log.Println("ended:", why)
		if why.Reason() == "SESSION_SUPERSEDED" {
			return 3
		} else if why.Reason() != "" && why.Details().RetryInfo == nil { // asking again would not help
			return 1
		}
		delay := max(c.delay, why.Details().RetryInfo.GetRetryDelay().AsDuration())
		select {
		case <-ctx.Done():
			return 0
		case <-time.After(delay + rand.N(delay/2)):
		}
	}
}

// stream follows one stream. What has piled up is processed, and acknowledged, together.
func (c *consumer) stream(ctx context.Context) error {
	c.conn.ResetConnectBackoff() // run has its own
	stream, err := pb.NewWatchServiceClient(c.conn).Subscribe(ctx, c.request)
	inbox := make(chan *pb.SubscribeResponse, 16)
	go func() {
		defer close(inbox)
		for err == nil {
			var message *pb.SubscribeResponse
			if message, err = stream.Recv(); err == nil {
				inbox <- message
			}
		}
	}()
	c.ack, c.acked, c.snapshot, c.events = &pb.AckRequest{ClientId: c.request.ClientId}, 0, nil, nil
	for message := range inbox {
		c.receive(message)
		if len(inbox) == 0 && c.ack.Revision > c.acked {
			c.commit()
		}
	}
	return err
}

func (c *consumer) receive(message *pb.SubscribeResponse) {
	switch m := message.Message.(type) {
	case *pb.SubscribeResponse_Opened:
		c.delay, c.ack.SessionId, c.acked = delayMin, m.Opened.SessionId, m.Opened.Checkpoint
		if m.Opened.Resumed && c.copy.Revision == 0 { // our copy is lost: this stream ends, the next has a snapshot
			seek := &pb.SeekSubscriptionRequest{ClientId: c.ack.ClientId, Target: &pb.SeekSubscriptionRequest_Snapshot{Snapshot: true}}
			_, err := pb.NewAdminServiceClient(c.conn).SeekSubscription(context.Background(), seek)
			must(err)
		}
	case *pb.SubscribeResponse_SnapshotBegin: // whatever came before it is void
		c.acked, c.snapshot, c.events = 0, nil, nil
	case *pb.SubscribeResponse_SnapshotChunk:
		c.snapshot = append(c.snapshot, m.SnapshotChunk.Kvs...)
	case *pb.SubscribeResponse_SnapshotEnd:
		c.copy.replace(m.SnapshotEnd.Revision, c.snapshot)
		c.ack.Revision, c.snapshot = m.SnapshotEnd.Revision, nil
	case *pb.SubscribeResponse_Events:
		c.events = append(c.events, m.Events.Events...)
		if !m.Events.Partial { // a revision is processed whole
			c.reached(m.Events.Revision)
		}
	case *pb.SubscribeResponse_Progress: // up to here nothing else happened
		c.reached(m.Progress.Revision)
	case *pb.SubscribeResponse_State:
		log.Println(m.State.State)
	}
}

func (c *consumer) reached(revision int64) {
	if c.copy.Revision != 0 { // else there is nothing yet that it could be applied to
		c.copy.apply(revision, c.events)
		c.ack.Revision, c.events = revision, nil
	}
}

// commit makes it first durable here, then acknowledges it: never the other way round.
func (c *consumer) commit() {
	c.copy.save()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if answer, err := pb.NewWatchServiceClient(c.conn).Ack(ctx, c.ack); err != nil {
		log.Println("not acked:", err) // a later ack makes up for it, or the next stream
	} else {
		c.acked = answer.Checkpoint
		log.Println("ACKED", c.acked)
	}
}
