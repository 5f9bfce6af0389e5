package etype

import (
	"crypto/pbkdf2"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The published vectors. Spaces in the hexadecimal are for the eye.

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	require.NoError(t, err)
	return b
}

// TestNFoldVectors: RFC 3961 appendix A.1.
func TestNFoldVectors(t *testing.T) {
	for _, v := range []struct {
		in   string
		bits int
		out  string
	}{
		{"012345", 64, "be072631276b1955"},
		{"password", 56, "78a07b6caf85fa"},
		{"Rough Consensus, and Running Code", 64, "bb6ed30870b7f0e0"},
		{"password", 168, "59e4a8ca7c0385c3c37b3f6d2000247cb6e6bd5b3e"},
		{"MASSACHVSETTS INSTITVTE OF TECHNOLOGY", 192, "db3b0d8f0b061e603282b308a50841229ad798fab9540c1b"},
		{"Q", 168, "518a54a2 15a8452a 518a54a2 15a8452a 518a54a2 15"},
		{"ba", 168, "fb25d531ae8974499f52fd92ea9857c4ba24cf297e"},
		{"kerberos", 64, "6b65726265726f73"},
		{"kerberos", 128, "6b65726265726f737b9b5b2b93132b93"},
		{"kerberos", 168, "8372c236344e5f1550cd0747e15d62ca7a5a3bcea4"},
		{"kerberos", 256, "6b65726265726f737b9b5b2b93132b935c9bdcdad95c9899c4cae4dee6d6cae4"},
	} {
		require.Equal(t, unhex(t, v.out), nfold([]byte(v.in), v.bits/8), "%d-fold(%q)", v.bits, v.in)
	}
}

// TestStringToKeyVectors: RFC 3962 appendix B, RFC 8009 appendix A.
func TestStringToKeyVectors(t *testing.T) {
	const athena = "ATHENA.MIT.EDUraeburn"
	sha2Salt := string(unhex(t, "10DF9DD783E5BC8ACEA1730E74355F61")) + athena
	for _, v := range []struct {
		id         ID
		iterations int
		pass, salt string
		key        string
	}{
		{AES128SHA1, 1, "password", athena, "42263c6e89f4fc28b8df68ee09799f15"},
		{AES256SHA1, 1, "password", athena, "fe697b52bc0d3ce14432ba036a92e65bbb52280990a2fa27883998d72af30161"},
		{AES128SHA1, 2, "password", athena, "c651bf29e2300ac27fa469d693bdda13"},
		{AES256SHA1, 2, "password", athena, "a2e16d16b36069c135d5e9d2e25f896102685618b95914b467c67622225824ff"},
		{AES128SHA1, 1200, "password", athena, "4c01cd46d632d01e6dbe230a01ed642a"},
		{AES256SHA1, 1200, "password", athena, "55a6ac740ad17b4846941051e1e8b0a7548d93b0ab30a8bc3ff16280382b8c2a"},
		{AES128SHA1, 5, "password", "\x12\x34\x56\x78\x78\x56\x34\x12", "e9b23d52273747dd5c35cb55be619d8e"},
		{AES256SHA1, 5, "password", "\x12\x34\x56\x78\x78\x56\x34\x12", "97a4e786be20d81a382d5ebc96d5909cabcdadc87ca48f574504159f16c36e31"},
		{AES128SHA1, 1200, strings.Repeat("X", 64), "pass phrase equals block size", "59d1bb789a828b1aa54ef9c2883f69ed"},
		{AES256SHA1, 1200, strings.Repeat("X", 64), "pass phrase equals block size", "89adee3608db8bc71f1bfbfe459486b05618b70cbae22092534e56c553ba4b34"},
		{AES128SHA1, 1200, strings.Repeat("X", 65), "pass phrase exceeds block size", "cb8005dc5f90179a7f02104c0018751d"},
		{AES256SHA1, 1200, strings.Repeat("X", 65), "pass phrase exceeds block size", "d78c5c9cb872a8c9dad4697f0bb5b2d21496c82beb2caeda2112fceea057401b"},
		{AES128SHA1, 50, "\xf0\x9d\x84\x9e", "EXAMPLE.COMpianist", "f149c1f2e154a73452d43e7fe62a56e5"},
		{AES256SHA1, 50, "\xf0\x9d\x84\x9e", "EXAMPLE.COMpianist", "4b6d9839f84406df1f09cc166db4b83c571848b784a3d6bdc346589a3e393f9e"},
		{AES128SHA256, 32768, "password", sha2Salt, "089BCA48B105EA6EA77CA5D2F39DC5E7"},
		{AES256SHA384, 32768, "password", sha2Salt, "45BD806DBF6A833A9CFFC1C94589A222367A79BC21C413718906E9F578A78467"},
	} {
		key := stringToKey(t, v.id.suite(), v.pass, v.salt, v.iterations)
		require.Equal(t, unhex(t, v.key), key, "%v, %d iterations, %q", v.id, v.iterations, v.salt)
	}
}

// TestCTSVectors: RFC 3962 appendix B.
func TestCTSVectors(t *testing.T) {
	const plain = "I would like the General Gau's Chicken, please, and wonton soup."
	key := []byte("chicken teriyaki")
	for n, out := range map[int]string{
		17: "c6353568f2bf8cb4d8a580362da7ff7f97",
		31: "fc00783e0efdb2c1d445d4c8eff7ed2297687268d6ecccc0c07b25e25ecfe5",
		32: "39312523a78662d5be7fcbcc98ebf5a897687268d6ecccc0c07b25e25ecfe584",
		47: "97687268d6ecccc0c07b25e25ecfe584b3fffd940c16a18c1b5549d2f838029e39312523a78662d5be7fcbcc98ebf5",
		48: "97687268d6ecccc0c07b25e25ecfe5849dad8bbb96c4cdc03bc103e1a194bbd839312523a78662d5be7fcbcc98ebf5a8",
		64: "97687268d6ecccc0c07b25e25ecfe58439312523a78662d5be7fcbcc98ebf5a84807efe836ee89a526730dbc2f7bc8409dad8bbb96c4cdc03bc103e1a194bbd8",
	} {
		var enc, dec chain
		require.NoError(t, enc.init(key, Sealing))
		require.NoError(t, dec.init(key, Opening))
		b := []byte(plain[:n])
		enc.encrypt(b)
		require.Equal(t, unhex(t, out), b, "encrypting %d bytes", n)
		dec.decrypt(b)
		require.Equal(t, plain[:n], string(b), "decrypting %d bytes", n)
	}
}

// stringToKey is RFC 3962 section 4 and RFC 8009 section 4. Only the vectors need
// it: they run through the derivation of keys.
func stringToKey(t *testing.T, s *suite, pass, salt string, iterations int) []byte {
	t.Helper()
	if s.etm {
		salt = s.name + "\x00" + salt
	}
	base, err := pbkdf2.Key(s.newHash, pass, []byte(salt), iterations, s.keySize)
	require.NoError(t, err)
	key := make([]byte, s.keySize)
	require.NoError(t, s.derive(key, base, []byte("kerberos")))
	return key
}

const (
	base19 = "3705D96080C17728A0E800EAB6E0D23C"
	base20 = "6D404D37FAF79F9DF0D33568D320669800EB4836472EA8A026D16B7182460C52"
)

// TestDeriveVectors: RFC 8009 appendix A. For types 17 and 18 the
// string-to-key vectors run through DK.
func TestDeriveVectors(t *testing.T) {
	for _, v := range []struct {
		id        ID
		base      string
		kind      Kind
		usage     uint32
		key, name string
	}{
		{AES128SHA256, base19, Kc, 2, "B31A018A48F54776F403E9A396325DC3", "Kc"},
		{AES128SHA256, base19, Ke, 2, "9B197DD1E8C5609D6E67C3E37C62C72E", "Ke"},
		{AES128SHA256, base19, Ki, 2, "9FDA0E56AB2D85E1569A688696C26A6C", "Ki"},
		{AES256SHA384, base20, Kc, 2, "EF5718BE86CC84963D8BBB5031E9F5C4BA41F28FAF69E73D", "Kc"},
		{AES256SHA384, base20, Ke, 2, "56AB22BEE63D82D7BC5227F6773F8EA7A5EB1C825160C38312980C442E5C7E49", "Ke"},
		{AES256SHA384, base20, Ki, 2, "69B16514E3CD8E56B82010D5C73012B622C4D00FFC23ED1F", "Ki"},
	} {
		key := make([]byte, v.kind.Size(v.id))
		require.NoError(t, Derive(key, v.id, unhex(t, v.base), v.usage, v.kind))
		require.Equal(t, unhex(t, v.key), key, "%v %s", v.id, v.name)
	}
}

// TestEncryptVectors: RFC 8009 appendix A, key usage 2, with the confounders
// given there, both ways.
func TestEncryptVectors(t *testing.T) {
	const seq = "000102030405060708090A0B0C0D0E0F1011121314"
	for _, v := range []struct {
		id                        ID
		base                      string
		plain, confounder, cipher string
	}{
		{AES128SHA256, base19, "", "7E5895EAF2672435BAD817F545A37148",
			"EF85FB890BB8472F4DAB20394DCA781DAD877EDA39D50C870C0D5A0A8E48C718"},
		{AES128SHA256, base19, seq[:12], "7BCA285E2FD4130FB55B1A5C83BC5B24",
			"84D7F30754ED987BAB0BF3506BEB09CFB55402CEF7E6877CE99E247E52D16ED4421DFDF8976C"},
		{AES128SHA256, base19, seq[:32], "56AB21713FF62C0A1457200F6FA9948F",
			"3517D640F50DDC8AD3628722B3569D2AE07493FA8263254080EA65C1008E8FC295FB4852E7D83E1E7C48C37EEBE6B0D3"},
		{AES128SHA256, base19, seq, "A7A4E29A4728CE10664FB64E49AD3FAC",
			"720F73B18D9859CD6CCB4346115CD336C70F58EDC0C4437C5573544C31C813BCE1E6D072C186B39A413C2F92CA9B8334A287FFCBFC"},
		{AES256SHA384, base20, "", "F764E9FA15C276478B2C7D0C4E5F58E4",
			"41F53FA5BFE7026D91FAF9BE959195A058707273A96A40F0A01960621AC612748B9BBFBE7EB4CE3C"},
		{AES256SHA384, base20, seq[:12], "B80D3251C1F6471494256FFE712D0B9A",
			"4ED7B37C2BCAC8F74F23C1CF07E62BC7B75FB3F637B9F559C7F664F69EAB7B6092237526EA0D1F61CB20D69D10F2"},
		{AES256SHA384, base20, seq[:32], "53BF8A0D105265D4E276428624CE5E63",
			"BC47FFEC7998EB91E8115CF8D19DAC4BBBE2E163E87DD37F49BECA92027764F68CF51F14D798C2273F35DF574D1F932E40C4FF255B36A266"},
		{AES256SHA384, base20, seq, "763E65367E864F02F55153C7E3B58AF1",
			"40013E2DF58E8751957D2878BCD2D6FE101CCFD556CB1EAE79DB3C3EE86429F2B2A602AC86FEF6ECB647D6295FAE077A1FEB517508D2C16B4192E01F62"},
	} {
		b := append(unhex(t, v.confounder), unhex(t, v.plain)...)
		b = append(b, make([]byte, v.id.MACSize())...)
		require.NoError(t, crypt(b, v.id, unhex(t, v.base), 2, Sealing))
		require.Equal(t, unhex(t, v.cipher), b, "%v encrypting %q", v.id, v.plain)

		plain, err := Decrypt(nil, v.id, unhex(t, v.base), 2, unhex(t, v.cipher))
		require.NoError(t, err)
		require.Equal(t, v.plain, strings.ToUpper(hex.EncodeToString(plain)))
	}
}

// TestChecksumVectors: RFC 8009 appendix A.
func TestChecksumVectors(t *testing.T) {
	msg := unhex(t, "000102030405060708090A0B0C0D0E0F1011121314")
	for _, v := range []struct {
		id        ID
		base, sum string
	}{
		{AES128SHA256, base19, "D78367186643D67B411CBA9139FC1DEE"},
		{AES256SHA384, base20, "45EE791567EEFCA37F4AC1E0222DE80D43C3BFA06699672A"},
	} {
		ke, kc := make([]byte, v.id.KeySize()), make([]byte, v.id.MACKeySize())
		require.NoError(t, Derive(ke, v.id, unhex(t, v.base), 2, Ke))
		require.NoError(t, Derive(kc, v.id, unhex(t, v.base), 2, Kc))
		c, err := NewCipher(v.id, ke, Sealing)
		require.NoError(t, err)
		sum := make([]byte, v.id.MACSize())
		require.NoError(t, c.Sum(sum, kc, msg))
		require.Equal(t, unhex(t, v.sum), sum)
	}
}
