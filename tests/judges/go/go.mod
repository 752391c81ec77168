module judges

go 1.23.0

require (
	firebase.google.com/go/v4 v4.19.0
	github.com/sideshow/apns2 v0.25.0
	google.golang.org/api v0.231.0
)
