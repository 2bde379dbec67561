// Command consumer keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted
// meanwhile.
//
//	consumer ADDRESS CLIENT_ID PREFIX STATE_FILE     ADDRESS: HOST:PORT or unix:///path.sock
//
// Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "example.com/consumer/gen/watchmark/v1"
)

const delayMin, delayMax = 100 * time.Millisecond, 5 * time.Second

// The work: the range's pairs as of that revision.
type state struct {
	Revision int64             `json:"revision"`
	Pairs    map[string]string `json:"pairs"`
}

type consumer struct {
	state
	file, clientID string
	api            pb.WatchServiceClient
	admin          pb.AdminServiceClient
	delay          time.Duration
	// Of the present stream.
	sessionID        uint64
	delivered, acked int64
	parts            []*pb.Event
	snapshot         map[string]string
}

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: delayMin, Multiplier: 2, Jitter: 0.2, MaxDelay: delayMax}}))
	must(err)
	c := &consumer{file: os.Args[4], clientID: os.Args[2], delay: delayMin,
		api: pb.NewWatchServiceClient(conn), admin: pb.NewAdminServiceClient(conn)}
	if content, err := os.ReadFile(c.file); err == nil {
		must(json.Unmarshal(content, &c.state))
	}
	for ctx.Err() == nil {
		err := c.stream(ctx, &pb.SubscribeRequest{ClientId: c.clientID, Prefix: []byte(os.Args[3]), MaxUnackedEvents: 10_000})
		if ctx.Err() != nil {
			return
		}
		var info *errdetails.ErrorInfo
		var retry *errdetails.RetryInfo // where the same call may succeed later
		for _, detail := range status.Convert(err).Details() {
			switch detail := detail.(type) {
			case *errdetails.ErrorInfo:
				info = detail
			case *errdetails.RetryInfo:
				retry = detail
			}
		}
		log.Println("ended:", info.GetReason(), err)
		if info != nil && retry == nil { // asking again would not help
			if info.Reason == "SESSION_SUPERSEDED" {
				os.Exit(3)
			}
			os.Exit(1)
		}
		delay := max(c.delay, retry.GetRetryDelay().AsDuration())
		select {
		case <-time.After(delay + rand.N(delay/2)):
		case <-ctx.Done():
		}
		c.delay = min(c.delay*2, delayMax)
	}
}

// Follows one stream. What has piled up is processed, and acknowledged, together.
func (c *consumer) stream(ctx context.Context, request *pb.SubscribeRequest) error {
	stream, err := c.api.Subscribe(ctx, request)
	if err != nil {
		return err
	}
	messages := make(chan *pb.SubscribeResponse, 16)
	go func() {
		defer close(messages)
		for err == nil {
			var message *pb.SubscribeResponse
			if message, err = stream.Recv(); err == nil {
				messages <- message
			}
		}
	}()
	c.parts, c.delivered, c.acked = nil, 0, 0
	for message := range messages {
		c.receive(message)
		if len(messages) == 0 {
			c.commit()
		}
	}
	return err
}

func (c *consumer) receive(message *pb.SubscribeResponse) {
	switch m := message.Message.(type) {
	case *pb.SubscribeResponse_Opened:
		c.delay, c.sessionID, c.acked = delayMin, m.Opened.SessionId, m.Opened.Checkpoint
		if m.Opened.Resumed && c.Revision == 0 { // our file is lost: this stream ends, the next has a snapshot
			_, err := c.admin.SeekSubscription(context.Background(), &pb.SeekSubscriptionRequest{
				ClientId: c.clientID, Target: &pb.SeekSubscriptionRequest_Snapshot{Snapshot: true}})
			must(err)
		}
	case *pb.SubscribeResponse_SnapshotBegin:
		c.snapshot = map[string]string{}
	case *pb.SubscribeResponse_SnapshotChunk:
		for _, kv := range m.SnapshotChunk.Kvs {
			c.snapshot[string(kv.Key)] = string(kv.Value)
		}
	case *pb.SubscribeResponse_SnapshotEnd: // what is not in it no longer exists
		c.state, c.delivered = state{m.SnapshotEnd.Revision, c.snapshot}, m.SnapshotEnd.Revision
		fmt.Println("SNAPSHOT", m.SnapshotEnd.Count)
	case *pb.SubscribeResponse_Events:
		c.parts = append(c.parts, m.Events.Events...)
		if !m.Events.Partial { // a revision is processed whole
			c.apply(m.Events.Revision)
		}
	case *pb.SubscribeResponse_Progress: // up to here nothing else happened
		c.apply(m.Progress.Revision)
	case *pb.SubscribeResponse_State:
		fmt.Println(m.State.State)
	}
}

func (c *consumer) apply(revision int64) {
	if c.Revision == 0 {
		return // there is nothing yet that it could be applied to
	}
	for _, event := range c.parts {
		key := string(event.Kv.Key)
		if event.Kv.ModRevision <= c.Revision {
			continue // it is here already: only its ack was lost
		}
		if event.Type == pb.Event_PUT {
			c.Pairs[key] = string(event.Kv.Value)
		} else {
			delete(c.Pairs, key)
		}
		fmt.Println(event.Type, key)
	}
	c.Revision, c.delivered, c.parts = max(c.Revision, revision), revision, nil
}

// First durable here, then acknowledged: never the other way round.
func (c *consumer) commit() {
	if c.delivered <= c.acked {
		return
	}
	content, err := json.Marshal(c.state)
	must(err)
	must(renameio.WriteFile(c.file, content, 0o600))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answer, err := c.api.Ack(ctx, &pb.AckRequest{ClientId: c.clientID, Revision: c.delivered, SessionId: c.sessionID})
	if err != nil { // a later ack makes up for it, or the next stream
		log.Println("not acked:", err)
		return
	}
	c.acked = answer.Checkpoint
	fmt.Println("ACKED", c.acked)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
