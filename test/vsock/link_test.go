//go:build vm

package vsock

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata/host/guestvm/guestvmtest"
)

func TestTheDeviceIsALink(t *testing.T) {
	m := boot(t)
	guestvmtest.TestLink(t, guestvmtest.LinkUnderTest{
		Link: m.dev, Echo: portEcho, Refused: 999,
		Connect: func(port uint32) {
			c, err := m.dev.Dial(context.Background(), portConnect)
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(port)), 1))
			_ = c.SetReadDeadline(time.Now().Add(bootLimit))
			_, _ = c.Read(make([]byte, 1))
		},
		End: func() {
			m.qemu.Signal(unix.SIGKILL)
			<-m.qemu.Done()
		},
	})
}
