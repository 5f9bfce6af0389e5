package interop

import (
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
)

// hostileAgent answers requests of the library's client: some as the protocol wants,
// most with a fault, by a fixed sequence of random numbers.
func hostileAgent(l net.Listener) {
	random := rand.New(rand.NewPCG(1, 2))
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		hostileConn(c, random)
		_ = c.Close()
	}
}

func hostileConn(c net.Conn, random *rand.Rand) {
	for {
		head := make([]byte, 12)
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[8:]))
		if _, err := io.ReadFull(c, body); err != nil {
			return
		}
		answer := honest(head[5], body)
		switch random.IntN(8) {
		case 0: // as it should be
		case 1: // one byte altered
			answer[random.IntN(len(answer))] ^= byte(1 + random.IntN(255))
		case 2: // cut
			answer = answer[:random.IntN(len(answer))]
		case 3: // longer than it says
			answer = append(answer, make([]byte, 1+random.IntN(100_000))...)
		case 4: // a refusal, with any status and any lengths
			answer = refusal(head[5], byte(random.IntN(256)), random)
		case 5: // a length that is not true
			binary.BigEndian.PutUint32(answer[8:], random.Uint32()>>random.IntN(32))
		case 6: // any bytes
			answer = make([]byte, random.IntN(200_000))
			for i := range answer {
				answer[i] = byte(random.Uint32())
			}
		case 7: // a field's length altered
			if len(answer) > 16 {
				answer[12+random.IntN(4)] = byte(random.Uint32())
			}
		}
		if _, err := c.Write(answer); err != nil || random.IntN(4) == 0 {
			return
		}
	}
}

// honest is an answer that the client takes for good.
func honest(op byte, request []byte) []byte {
	var body []byte
	switch op {
	case 9: // prepare: one start
		body = append([]byte{1, 0, 100}, make([]byte, 100)...)
	case 10: // seal: a token that begins with the start
		n := binary.BigEndian.Uint16(request)
		token := append(request[2:2+n:2+n], make([]byte, 600)...)
		body = append(binary.BigEndian.AppendUint32(nil, uint32(len(token))), token...)
	default: // open
		body = append(binary.BigEndian.AppendUint32(nil, 500), make([]byte, 500)...)
	}
	return answerFrame(op, 0, body)
}

func refusal(op, status byte, random *rand.Rand) []byte {
	body := binary.BigEndian.AppendUint32(nil, random.Uint32())
	body = binary.BigEndian.AppendUint16(body, uint16(random.Uint32()))
	for range random.IntN(1000) {
		body = append(body, byte(random.Uint32()))
	}
	return answerFrame(op, status, body[:random.IntN(len(body)+1)])
}

func answerFrame(op, status byte, body []byte) []byte {
	frame := append([]byte("SLXA\x01"), op, 1, status)
	return append(binary.BigEndian.AppendUint32(frame, uint32(len(body))), body...)
}
