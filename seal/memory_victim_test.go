package seal

import "github.com/sealctx/sealctx/internal/memscan"

// victims are the processes that the memory scanner looks into.
var victims = map[string]func(*memscan.Victim){}
