// A worker: subscribes with a queue group, so that each run is done by one of its processes.
//
//	NATS_URL=nats://localhost:4222 go run . "demo.>"
package main

import (
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/nats-io/nats.go"
)

const (
	queue    = "workers"
	remember = 10_000
)

// seen holds the ids of the runs that were done: after a fault the same run may come twice, always under the same id.
type seen struct {
	mu    sync.Mutex
	ids   map[string]bool
	order []string
}

func (s *seen) has(run string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids[run]
}

func (s *seen) add(run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids[run] {
		return
	}
	s.ids[run] = true
	s.order = append(s.order, run)
	if len(s.order) > remember {
		delete(s.ids, s.order[0])
		s.order = s.order[1:]
	}
}

// work is where your own code goes.
func work(subject, run string, data []byte) error {
	fmt.Printf("done %s run %s: %s\n", subject, run, data)
	return nil
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal(`give the subjects to listen on, such as "reports.>"`)
	}
	url := os.Getenv("NATS_URL")
	if url == "" {
		url = nats.DefaultURL
	}
	closed := make(chan struct{})
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		log.Fatal(err)
	}
	known := &seen{ids: map[string]bool{}}
	handle := func(m *nats.Msg) {
		run := m.Header.Get("Nats-Cron-Run")
		reply := nats.NewMsg(m.Reply)
		reply.Data = []byte("done")
		if run == "" || !known.has(run) {
			if err := work(m.Subject, run, m.Data); err != nil {
				log.Printf("failed %s run %s: %v", m.Subject, run, err)
				reply.Data = nil
				reply.Header.Set("Nats-Service-Error", err.Error())
				reply.Header.Set("Nats-Service-Error-Code", "500")
			} else {
				known.add(run)
			}
		}
		// Jobs with "delivery": "request" wait for an answer; it becomes the run's outcome.
		if m.Reply != "" {
			if err := nc.PublishMsg(reply); err != nil {
				log.Printf("answer to run %s: %v", run, err)
			}
		}
	}
	for _, subject := range os.Args[1:] {
		if _, err := nc.QueueSubscribe(subject, queue, handle); err != nil {
			log.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("listening on %v as one of %s\n", os.Args[1:], queue)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
	// Finish what was begun, take nothing new.
	if err := nc.Drain(); err != nil {
		log.Fatal(err)
	}
	<-closed
}
