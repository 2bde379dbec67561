package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"

	"github.com/google/renameio/v2"

	pb "example.com/consumer/gen/watchmark/v1"
)

// localCopy stands for the application's own work: a durable copy of the range, as of one revision.
type localCopy struct {
	file     string
	Revision int64             `json:"revision"` // 0: there is nothing yet
	Pairs    map[string]string `json:"pairs"`
}

func loadCopy(file string) *localCopy {
	c := &localCopy{file: file}
	if content, err := os.ReadFile(file); !errors.Is(err, fs.ErrNotExist) {
		must(err)
		must(json.Unmarshal(content, c))
	}
	return c
}

// replace takes a snapshot: what is not in it no longer exists.
func (c *localCopy) replace(revision int64, kvs []*pb.KeyValue) {
	c.Revision, c.Pairs = revision, map[string]string{}
	for _, kv := range kvs {
		c.Pairs[string(kv.Key)] = string(kv.Value)
	}
	fmt.Println("SNAPSHOT", len(kvs))
}

// apply takes whole revisions. What is here already comes again when only its ack was lost.
func (c *localCopy) apply(revision int64, events []*pb.Event) {
	for _, event := range events {
		if event.Kv.ModRevision <= c.Revision {
			continue
		}
		key := string(event.Kv.Key)
		if event.Type == pb.Event_PUT {
			c.Pairs[key] = string(event.Kv.Value)
		} else {
			delete(c.Pairs, key)
		}
		fmt.Println(event.Type, key)
	}
	c.Revision = max(c.Revision, revision)
}

func (c *localCopy) save() {
	content, err := json.Marshal(c)
	must(err)
	must(renameio.WriteFile(c.file, content, 0o600))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
