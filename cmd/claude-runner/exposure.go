package main

import (
	"context"
	"fmt"
	"net"
)

// checkExposure refuses to serve other machines where nobody is asked for a
// key.
func (a *app) checkExposure(ctx context.Context, addr net.Addr) error {
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsLoopback() || len(a.cfg.Server.APIKeys) > 0 {
		return nil
	}
	any, err := a.manager.Keys().Any(ctx)
	if err != nil || any {
		return err
	}
	return fmt.Errorf("other machines reach %s, and nobody would be asked for a key: make one with 'claude-runner keys create --name NAME', set server.api_keys, or listen on 127.0.0.1", addr)
}
