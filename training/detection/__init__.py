"""What training ``retina-unet`` needs beside the network: instances, anchor sizes, matching and losses."""
