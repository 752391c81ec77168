// Clients sends what a task asks for, with sideshow/apns2 or firebase.google.com/go, and writes what became of each as
// JSON.
//
// The task is JSON on standard input; `clients.py` beside this directory says what is in it. Only the addresses of Apple
// and Google are replaced. The CA comes from SSL_CERT_FILE.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log"
	"os"
	"sync"
	"time"

	firebase "firebase.google.com/go/v4"
	"firebase.google.com/go/v4/messaging"
	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/certificate"
	"github.com/sideshow/apns2/token"
	"google.golang.org/api/option"
)

type task struct {
	Provider string
	URL      string
	Auth     struct {
		Key    string
		KeyID  string `json:"key_id"`
		TeamID string `json:"team_id"`
		P12    string
		Pem    string
	}
	Notifications []struct {
		Token      string
		Topic      string
		Payload    json.RawMessage
		PushType   apns2.EPushType `json:"push_type"`
		Priority   int
		Expiration int64
		CollapseID string `json:"collapse_id"`
		ID         string
	}
	Account  string
	Call     string
	Messages []struct {
		Token string
		Data  map[string]string
		TTL   int `json:"ttl_s"`
	}
}

type apnsAnswer struct {
	Status    int    `json:"status"`
	Reason    string `json:"reason"`
	Timestamp int64  `json:"timestamp,omitempty"`
}

type fcmAnswer struct {
	Name    string `json:"name,omitempty"`
	Code    string `json:"code,omitempty"`
	Message string `json:"message,omitempty"`
}

func apns(given task) []apnsAnswer {
	client := apnsClient(given)
	client.Host = given.URL
	answers := make([]apnsAnswer, len(given.Notifications))
	var all sync.WaitGroup
	for at, one := range given.Notifications {
		all.Add(1)
		go func() {
			defer all.Done()
			answer, err := client.Push(&apns2.Notification{
				DeviceToken: one.Token, Topic: one.Topic, Payload: one.Payload, PushType: one.PushType,
				Priority: one.Priority, Expiration: time.Unix(one.Expiration, 0), CollapseID: one.CollapseID, ApnsID: one.ID,
			})
			if err != nil {
				answers[at] = apnsAnswer{Reason: err.Error()}
				return
			}
			answers[at] = apnsAnswer{Status: answer.StatusCode, Reason: answer.Reason}
			if !answer.Timestamp.IsZero() {
				answers[at].Timestamp = answer.Timestamp.UnixMilli()
			}
		}()
	}
	all.Wait()
	return answers
}

func apnsClient(given task) *apns2.Client {
	auth := given.Auth
	if auth.Key != "" {
		key, err := token.AuthKeyFromFile(auth.Key)
		must(err)
		return apns2.NewTokenClient(&token.Token{AuthKey: key, KeyID: auth.KeyID, TeamID: auth.TeamID})
	}
	var loaded tls.Certificate
	var err error
	if auth.P12 != "" {
		loaded, err = certificate.FromP12File(auth.P12, "")
	} else {
		loaded, err = certificate.FromPemFile(auth.Pem, "")
	}
	must(err)
	return apns2.NewClient(loaded)
}

func fcm(given task) []fcmAnswer {
	ctx := context.Background()
	app, err := firebase.NewApp(ctx, nil, option.WithCredentialsFile(given.Account), option.WithEndpoint(given.URL+"/v1"))
	must(err)
	client, err := app.Messaging(ctx)
	must(err)
	messages := make([]*messaging.Message, len(given.Messages))
	for at, one := range given.Messages {
		ttl := time.Duration(one.TTL) * time.Second
		android := &messaging.AndroidConfig{Priority: "high", TTL: &ttl}
		messages[at] = &messaging.Message{Token: one.Token, Data: one.Data, Android: android}
	}
	answers := make([]fcmAnswer, len(messages))
	if given.Call == "send_each" {
		batch, err := client.SendEach(ctx, messages)
		must(err)
		for at, one := range batch.Responses {
			answers[at] = fcmAnswerOf(one.MessageID, one.Error)
		}
		return answers
	}
	send := client.Send
	if given.Call == "dry_run" {
		send = client.SendDryRun
	}
	for at, message := range messages {
		answers[at] = fcmAnswerOf(send(ctx, message))
	}
	return answers
}

func fcmAnswerOf(name string, err error) fcmAnswer {
	if err == nil {
		return fcmAnswer{Name: name}
	}
	code := "other"
	for name, is := range map[string]func(error) bool{
		"unregistered":     messaging.IsUnregistered,
		"invalid-argument": messaging.IsInvalidArgument,
		"mismatched":       messaging.IsSenderIDMismatch,
		"quota-exceeded":   messaging.IsQuotaExceeded,
		"unavailable":      messaging.IsUnavailable,
		"third-party-auth": messaging.IsThirdPartyAuthError,
		"internal":         messaging.IsInternal,
	} {
		if is(err) {
			code = name
		}
	}
	return fcmAnswer{Code: code, Message: err.Error()}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	var given task
	must(json.NewDecoder(os.Stdin).Decode(&given))
	var answers any
	if given.Provider == "apns" {
		answers = apns(given)
	} else {
		answers = fcm(given)
	}
	must(json.NewEncoder(os.Stdout).Encode(answers))
}
