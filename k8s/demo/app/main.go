// Command follower is the application of the demo: it keeps a range of etcd in
// a file, as a JSON object, and acknowledges what is in it.
//
//	WATCHMARK_ADDRESS=unix:///run/watchmark/watchmark.sock follower CLIENT_ID PREFIX FILE
//
// The file has to live as long as the checkpoint does: who forgets its state and
// keeps its position has lost everything before that position.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "watchmark.example/follower/pb"
)

// Between two attempts; doubled up to the longest.
const (
	retryAfter    = 100 * time.Millisecond
	retryAfterMax = 10 * time.Second
)

type follower struct {
	clientID, prefix, file string
	pairs                  map[string]string
	snapshot               map[string]string // of a snapshot that has not ended yet
}

func main() {
	log.SetFlags(0)
	log.SetOutput(os.Stdout)
	if len(os.Args) != 4 {
		log.Fatal("usage: follower CLIENT_ID PREFIX FILE")
	}
	f := &follower{clientID: os.Args[1], prefix: os.Args[2], file: os.Args[3], pairs: map[string]string{}}
	text, err := os.ReadFile(f.file)
	if err == nil {
		err = json.Unmarshal(text, &f.pairs)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Fatal(err)
	}
	log.Printf("%d pairs on file", len(f.pairs))

	// The first process of a container is ended by no signal that it does not handle.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	connection, err := grpc.NewClient(os.Getenv("WATCHMARK_ADDRESS"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	client := pb.NewWatchServiceClient(connection)
	for pause := retryAfter; ctx.Err() == nil; pause = min(2*pause, retryAfterMax) {
		opened, err := f.follow(ctx, client)
		log.Printf("ended: %v", err)
		if opened {
			pause = retryAfter
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	log.Print("stopped")
}

// follow is one stream, and whether it was opened.
func (f *follower) follow(ctx context.Context, client pb.WatchServiceClient) (opened bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Subscribe(ctx, &pb.SubscribeRequest{ClientId: f.clientID, Prefix: []byte(f.prefix)})
	if err != nil {
		return false, err
	}
	var session uint64
	for {
		message, err := stream.Recv()
		if err != nil {
			return session != 0, err
		}
		if it := message.GetOpened(); it != nil {
			session = it.SessionId
		}
		revision, err := f.process(message)
		if err != nil {
			log.Fatal(err) // What is not on file is not acknowledged.
		}
		if revision == 0 {
			continue
		}
		if _, err := client.Ack(ctx, &pb.AckRequest{ClientId: f.clientID, Revision: revision, SessionId: session}); err != nil {
			return true, err
		}
		log.Printf("acked %d", revision)
	}
}

// process returns what can be acknowledged now; 0: nothing.
func (f *follower) process(message *pb.SubscribeResponse) (int64, error) {
	switch it := message.Message.(type) {
	case *pb.SubscribeResponse_Opened:
		log.Printf("opened resumed=%t checkpoint=%d", it.Opened.Resumed, it.Opened.Checkpoint)
	case *pb.SubscribeResponse_SnapshotBegin:
		log.Printf("snapshot %s", it.SnapshotBegin.Reason)
		f.snapshot = map[string]string{}
	case *pb.SubscribeResponse_SnapshotChunk:
		for _, kv := range it.SnapshotChunk.Kvs {
			f.snapshot[string(kv.Key)] = string(kv.Value)
		}
	case *pb.SubscribeResponse_SnapshotEnd:
		f.pairs, f.snapshot = f.snapshot, nil
		return it.SnapshotEnd.Revision, f.save()
	case *pb.SubscribeResponse_Events:
		for _, event := range it.Events.Events {
			if event.Type == pb.Event_DELETE {
				delete(f.pairs, string(event.Kv.Key))
			} else {
				f.pairs[string(event.Kv.Key)] = string(event.Kv.Value)
			}
			log.Printf("event %d %s %s", event.Kv.ModRevision, event.Type, event.Kv.Key)
		}
		if !it.Events.Partial {
			return it.Events.Revision, f.save()
		}
	}
	return 0, nil
}

// save writes the file whole, or not at all.
func (f *follower) save() error {
	text, err := json.Marshal(f.pairs)
	if err != nil {
		return err
	}
	next, err := os.Create(f.file + ".next")
	if err != nil {
		return err
	}
	_, err = next.Write(text)
	if err := errors.Join(err, next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), f.file)
}
